//! Calls of the client, by service.

use serde::Serialize;
use tidewire_proto::v1::{
    AlertRule, Block, Candle, DeleteAlertRequest, DismissRequest, DismissResponse,
    GetCandlesRequest, GetHistoryRequest, GetHistoryResponse, GetLatestBlockRequest,
    GetMarketOverviewRequest, GetPriceRequest, GetTransactionStatusRequest, GetUnreadCountRequest,
    LinkWalletRequest, ListAlertsRequest, ListAlertsResponse, ListFiresRequest, ListFiresResponse,
    ListNotificationsRequest, ListNotificationsResponse, MarkAllReadRequest, MarkReadRequest,
    MarkReadResponse, MarketOverview, NotifyBatchRequest, NotifyRequest, NotifyResponse, Position,
    PriceUpdate, PublishRequest, PublishResponse, RegisterAlertRequest, TransactionStatus,
    UnlinkWalletRequest, UnwatchRequest, UpdateAlertRequest, WatchTransactionRequest,
    alert_service_client::AlertServiceClient, notify_result,
    notify_service_client::NotifyServiceClient, price_service_client::PriceServiceClient,
    stream_service_client::StreamServiceClient, watch_service_client::WatchServiceClient,
};

use crate::{
    calls::{MAX_MESSAGE_BYTES, new_key},
    client::Client,
    error::{Error, ErrorKind},
    notice::to_json,
};

/// Calls an RPC of a service.
macro_rules! call {
    ($client:expr, $service:ident :: $method:ident, $message:expr) => {
        $client
            .calls
            .call($message, |channel, request| async move {
                $service::new(channel)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .$method(request)
                    .await
            })
            .await
    };
}

/// Channels.
///
/// Every call returns an error of the server with its kind; [`ErrorKind::DeadlineExceeded`] when no
/// attempt succeeded in time; [`ErrorKind::Token`] if the token source failed.
impl Client {
    /// Publishes a document to a channel. Repeated attempts publish once.
    ///
    /// # Errors
    /// As every call. [`ErrorKind::InvalidArgument`] also if `data` has no JSON form.
    pub async fn publish(
        &self,
        channel: &str,
        data: &impl Serialize,
    ) -> Result<PublishResponse, Error> {
        self.publish_request(PublishRequest {
            channel: channel.to_owned(),
            data: to_json(data)?,
            idempotency_key: None,
        })
        .await
    }

    /// Publishes JSON bytes as they are, and with a key of your own if the request has one.
    ///
    /// # Errors
    /// As every call.
    pub async fn publish_request(
        &self,
        mut request: PublishRequest,
    ) -> Result<PublishResponse, Error> {
        request.idempotency_key = request.idempotency_key.or_else(new_key);
        call!(self, StreamServiceClient::publish, request)
    }

    /// Reads a channel's history: after a position the oldest, else the newest publications.
    ///
    /// # Errors
    /// As every call.
    pub async fn history(
        &self,
        channel: &str,
        since: Option<Position>,
        limit: Option<u32>,
    ) -> Result<GetHistoryResponse, Error> {
        let request = GetHistoryRequest {
            channel: channel.to_owned(),
            since,
            limit,
        };
        call!(self, StreamServiceClient::get_history, request)
    }
}

/// Prices.
impl Client {
    /// Reads the price of a symbol, with its sources.
    ///
    /// # Errors
    /// As every call.
    pub async fn price(&self, symbol: &str) -> Result<PriceUpdate, Error> {
        let symbol = symbol.to_uppercase();
        call!(
            self,
            PriceServiceClient::get_price,
            GetPriceRequest { symbol }
        )
    }

    /// Reads candles, oldest first: from a time on, else the newest.
    ///
    /// # Errors
    /// As every call.
    pub async fn get_candles(&self, request: GetCandlesRequest) -> Result<Vec<Candle>, Error> {
        let response = call!(self, PriceServiceClient::get_candles, request)?;
        Ok(response.items)
    }

    /// Reads the market overview.
    ///
    /// # Errors
    /// As every call.
    pub async fn get_market_overview(&self) -> Result<MarketOverview, Error> {
        let request = GetMarketOverviewRequest {};
        call!(self, PriceServiceClient::get_market_overview, request)
    }
}

/// Chains. A watch without a stream goes on until its final state, also when nobody is connected.
impl Client {
    /// Watches a transaction for a user, and returns its state.
    ///
    /// # Errors
    /// As every call.
    pub async fn watch(
        &self,
        request: WatchTransactionRequest,
    ) -> Result<TransactionStatus, Error> {
        let response = call!(self, WatchServiceClient::watch_transaction, request)?;
        response.status.ok_or_else(|| {
            let text = "the server's response has no `status`";
            Error::new(ErrorKind::Internal, text)
        })
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// As every call.
    pub async fn unwatch(&self, chain: u64, hash: &str) -> Result<(), Error> {
        let request = UnwatchRequest {
            chain,
            tx_hash: hash.to_owned(),
        };
        call!(self, WatchServiceClient::unwatch, request).map(|_| ())
    }

    /// Reads the state of a transaction.
    ///
    /// # Errors
    /// As every call.
    pub async fn transaction_status(
        &self,
        chain: u64,
        hash: &str,
    ) -> Result<TransactionStatus, Error> {
        let request = GetTransactionStatusRequest {
            chain,
            tx_hash: hash.to_owned(),
        };
        call!(self, WatchServiceClient::get_transaction_status, request)
    }

    /// Reads the newest block of a chain.
    ///
    /// # Errors
    /// As every call.
    pub async fn latest_block(&self, chain: u64) -> Result<Block, Error> {
        let request = GetLatestBlockRequest { chain };
        call!(self, WatchServiceClient::get_latest_block, request)
    }

    /// Links a wallet to a user, who is notified of its transactions. `user` is `None` for the
    /// token's own.
    ///
    /// # Errors
    /// As every call.
    pub async fn link_wallet(&self, user: Option<&str>, address: &str) -> Result<(), Error> {
        let request = LinkWalletRequest {
            user: user.map(str::to_owned),
            address: address.to_owned(),
        };
        call!(self, WatchServiceClient::link_wallet, request).map(|_| ())
    }

    /// Unlinks a wallet.
    ///
    /// # Errors
    /// As every call.
    pub async fn unlink_wallet(&self, user: Option<&str>, address: &str) -> Result<(), Error> {
        let request = UnlinkWalletRequest {
            user: user.map(str::to_owned),
            address: address.to_owned(),
        };
        call!(self, WatchServiceClient::unlink_wallet, request).map(|_| ())
    }
}

/// Notifications. In requests about a user, the field `user` is absent for the token's own.
impl Client {
    /// Sends a notification. Repeated attempts send one.
    ///
    /// # Errors
    /// As every call.
    pub async fn notify(
        &self,
        notification: impl Into<NotifyRequest>,
    ) -> Result<NotifyResponse, Error> {
        let mut request = notification.into();
        request.idempotency_key = request.idempotency_key.or_else(new_key);
        call!(self, NotifyServiceClient::notify, request)
    }

    /// Sends several notifications, each with its own result.
    ///
    /// # Errors
    /// As every call.
    pub async fn notify_batch<I: IntoIterator<Item: Into<NotifyRequest>>>(
        &self,
        notifications: I,
    ) -> Result<Vec<Result<NotifyResponse, Error>>, Error> {
        let notifications = notifications.into_iter().map(|notification| {
            let mut request = notification.into();
            request.idempotency_key = request.idempotency_key.or_else(new_key);
            request
        });
        let request = NotifyBatchRequest {
            notifications: notifications.collect(),
        };
        let response = call!(self, NotifyServiceClient::notify_batch, request)?;
        let results = response
            .results
            .into_iter()
            .map(|result| match result.result {
                Some(notify_result::Result::Notified(notified)) => Ok(notified),
                Some(notify_result::Result::Error(error)) => Err(error.into()),
                None => Err(Error::new(ErrorKind::Internal, "a result is empty")),
            });
        Ok(results.collect())
    }

    /// Reads a page of a user's notifications, newest first.
    ///
    /// # Errors
    /// As every call.
    pub async fn notifications(
        &self,
        request: ListNotificationsRequest,
    ) -> Result<ListNotificationsResponse, Error> {
        call!(self, NotifyServiceClient::list_notifications, request)
    }

    /// Marks notifications as read.
    ///
    /// # Errors
    /// As every call.
    pub async fn mark_read(&self, request: MarkReadRequest) -> Result<MarkReadResponse, Error> {
        call!(self, NotifyServiceClient::mark_read, request)
    }

    /// Marks all notifications as read, and returns the number of unread ones.
    ///
    /// # Errors
    /// As every call.
    pub async fn mark_all_read(&self, request: MarkAllReadRequest) -> Result<u64, Error> {
        let response = call!(self, NotifyServiceClient::mark_all_read, request)?;
        Ok(response.unread_count)
    }

    /// Removes notifications.
    ///
    /// # Errors
    /// As every call.
    pub async fn dismiss(&self, request: DismissRequest) -> Result<DismissResponse, Error> {
        call!(self, NotifyServiceClient::dismiss, request)
    }

    /// Reads the number of unread notifications.
    ///
    /// # Errors
    /// As every call.
    pub async fn unread_count(&self, user: Option<&str>) -> Result<u64, Error> {
        let request = GetUnreadCountRequest {
            user: user.map(str::to_owned),
        };
        let response = call!(self, NotifyServiceClient::get_unread_count, request)?;
        Ok(response.unread_count)
    }
}

/// Alerts. In requests about a user, the field `user` is absent for the token's own.
impl Client {
    /// Registers an alert rule. Repeated attempts register one.
    ///
    /// # Errors
    /// As every call.
    pub async fn register_alert(
        &self,
        mut request: RegisterAlertRequest,
    ) -> Result<AlertRule, Error> {
        request.idempotency_key = request.idempotency_key.or_else(new_key);
        call!(self, AlertServiceClient::register_alert, request)
    }

    /// Replaces an alert rule.
    ///
    /// # Errors
    /// As every call.
    pub async fn update_alert(&self, request: UpdateAlertRequest) -> Result<AlertRule, Error> {
        call!(self, AlertServiceClient::update_alert, request)
    }

    /// Reads a page of alert rules.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_alerts(
        &self,
        request: ListAlertsRequest,
    ) -> Result<ListAlertsResponse, Error> {
        call!(self, AlertServiceClient::list_alerts, request)
    }

    /// Reads a page of what fired, newest first.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_fires(&self, request: ListFiresRequest) -> Result<ListFiresResponse, Error> {
        call!(self, AlertServiceClient::list_fires, request)
    }

    /// Deletes an alert rule. `NotFound` after a repeated attempt means that the first one did it.
    ///
    /// # Errors
    /// As every call.
    pub async fn delete_alert(&self, request: DeleteAlertRequest) -> Result<(), Error> {
        call!(self, AlertServiceClient::delete_alert, request).map(|_| ())
    }
}
