//! Notification handlers: list, read, dismiss, count and preferences of the session's user.

use tidewire_proto::v1::{
    DismissRequest, Error, GetUnreadCountRequest, ListNotificationsRequest, MarkAllReadRequest,
    MarkReadRequest, Preferences, server_message::Data,
};
use tidewire_stream::{Command, StreamError};

use super::handler::{Handler, HandlerRegistry, handles, reply_from_core};
use crate::{NotifyRpc, notify::own_user};

/// Runs an operation whose result carries the count of a user. Sees to it that the client ends at
/// the right count, whatever is pushed before and after the reply.
async fn in_order<T>(
    notify: &NotifyRpc,
    command: &Command,
    user: Option<&str>,
    operation: impl Future<Output = Result<T, StreamError>>,
    count: impl FnOnce(&T) -> u64,
) -> Result<T, StreamError> {
    let order = notify.count_order(command, user).await;
    let result = operation.await;
    if let (Some(order), Ok(result)) = (order, &result) {
        order.follow(command, count(result));
    }
    result
}

/// Stands for the inbox in the order of commands: a client that marks and then counts gets the
/// count after the mark.
const INBOX: &str = "user:";

pub(super) fn register(handlers: &mut HandlerRegistry, notify: &NotifyRpc) {
    handlers.add(ListNotifications(notify.clone()));
    handlers.add(MarkRead(notify.clone()));
    handlers.add(Dismiss(notify.clone()));
    handlers.add(MarkAllRead(notify.clone()));
    handlers.add(CountUnread(notify.clone()));
    handlers.add(AccessPreferences(notify.clone()));
}

/// Lists notifications.
struct ListNotifications(NotifyRpc);

impl Handler for ListNotifications {
    handles!(Notifications(ListNotificationsRequest));

    fn visit_channels(&self, _request: &ListNotificationsRequest, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: ListNotificationsRequest,
    ) -> Result<Data, Error> {
        // The reply counts in the outbox before it is made.
        let room = command.reserve_reply(self.0.page_bytes() / 2);
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let listed = self.0.list_as(&caller, &request, room.bytes());
        let user = request.user.as_deref();
        let listed = in_order(&self.0, command, user, listed, |list| list.unread_count);
        reply_from_core(listed.await, Data::Notifications)
    }
}

/// Marks notifications as read.
struct MarkRead(NotifyRpc);

impl Handler for MarkRead {
    handles!(MarkRead(MarkReadRequest));

    fn visit_channels(&self, _request: &MarkReadRequest, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(&self, command: &Command, mut request: MarkReadRequest) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let marked = self.0.mark_read_as(&caller, &request);
        let user = request.user.as_deref();
        let marked = in_order(&self.0, command, user, marked, |read| read.unread_count);
        reply_from_core(marked.await, Data::Read)
    }
}

/// Removes notifications.
struct Dismiss(NotifyRpc);

impl Handler for Dismiss {
    handles!(Dismiss(DismissRequest));

    fn visit_channels(&self, _request: &DismissRequest, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(&self, command: &Command, mut request: DismissRequest) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let gone = self.0.dismiss_as(&caller, &request);
        let user = request.user.as_deref();
        let gone = in_order(&self.0, command, user, gone, |gone| gone.unread_count);
        reply_from_core(gone.await, Data::Dismissed)
    }
}

/// Marks all notifications as read.
struct MarkAllRead(NotifyRpc);

impl Handler for MarkAllRead {
    handles!(MarkAllRead(MarkAllReadRequest));

    fn visit_channels(&self, _request: &MarkAllReadRequest, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: MarkAllReadRequest,
    ) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let marked = self.0.mark_all_read_as(&caller, &request);
        let user = request.user.as_deref();
        let marked = in_order(&self.0, command, user, marked, |read| read.unread_count);
        reply_from_core(marked.await, Data::Read)
    }
}

/// Counts unread notifications.
struct CountUnread(NotifyRpc);

impl Handler for CountUnread {
    handles!(UnreadCount(GetUnreadCountRequest));

    fn visit_channels(&self, _request: &GetUnreadCountRequest, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: GetUnreadCountRequest,
    ) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let counted = self.0.unread_count_as(&caller, &request);
        let user = request.user.as_deref();
        let counted = in_order(&self.0, command, user, counted, |count| count.unread_count);
        reply_from_core(counted.await, Data::UnreadCount)
    }
}

/// Reads preferences, or replaces them if the message has any. The JSON form sees to it that a
/// message whose fields are all empty has some.
struct AccessPreferences(NotifyRpc);

impl Handler for AccessPreferences {
    handles!(Preferences(Preferences));

    fn visit_channels(&self, _request: &Preferences, visit: &mut dyn FnMut(&str)) {
        visit(INBOX);
    }

    async fn answer(&self, command: &Command, mut preferences: Preferences) -> Result<Data, Error> {
        let caller = command.caller();
        let user = own_user(&caller.identity, preferences.user.take());
        let answered = if preferences == Preferences::default() {
            self.0.preferences_as(&caller, user.as_deref()).await
        } else {
            let set = self
                .0
                .set_preferences_as(&caller, user.as_deref(), preferences);
            set.await
        };
        reply_from_core(answered, Data::Preferences)
    }
}
