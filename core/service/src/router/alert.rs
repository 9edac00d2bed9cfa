//! Alert handlers: register, change, list, delete and explain the rules of the session's user, and
//! list what fired.

use tidewire_proto::v1::{
    AlertRule, DeleteAlertRequest, Error, ExplainAlertRequest, ListAlertsRequest, ListFiresRequest,
    RegisterAlertRequest, UpdateAlertRequest, server_message::Data,
};
use tidewire_stream::{Command, StreamError};

use super::handler::{Handler, HandlerRegistry, handles, reply_from_core};
use crate::{AlertRpc, alert::RuleForm, notify::own_user};

/// Stands for the rules in the order of commands: a client that registers and then lists gets the
/// new rule.
const RULES: &str = "alerts:";

pub(super) fn register(handlers: &mut HandlerRegistry, alert: &AlertRpc) {
    handlers.add(Register(alert.clone()));
    handlers.add(Update(alert.clone()));
    handlers.add(ListRules(alert.clone()));
    handlers.add(Delete(alert.clone()));
    handlers.add(Explain(alert.clone()));
    handlers.add(ListFires(alert.clone()));
}

/// Registers a rule.
struct Register(AlertRpc);

impl Handler for Register {
    handles!(AlertRegister(AlertRule));

    fn visit_channels(&self, _request: &AlertRule, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(&self, command: &Command, mut rule: AlertRule) -> Result<Data, Error> {
        let caller = command.caller();
        let user = own_user(&caller.identity, rule.user.take());
        let request = RegisterAlertRequest {
            user,
            idempotency_key: rule.idempotency_key.take(),
            rule: Some(rule),
        };
        let registered = self.0.register_as(RuleForm::Whole, &caller, request);
        let registered = registered.await.map_err(StreamError::from);
        reply_from_core(registered, Data::AlertRegistered)
    }
}

/// Changes a rule.
struct Update(AlertRpc);

impl Handler for Update {
    handles!(AlertUpdate(AlertRule));

    fn visit_channels(&self, _request: &AlertRule, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(&self, command: &Command, mut rule: AlertRule) -> Result<Data, Error> {
        let caller = command.caller();
        let user = own_user(&caller.identity, rule.user.take());
        let request = UpdateAlertRequest {
            user,
            rule: Some(rule),
        };
        let updated = self.0.update_as(RuleForm::Whole, &caller, request);
        let updated = updated.await.map_err(StreamError::from);
        reply_from_core(updated, Data::AlertUpdated)
    }
}

/// Lists rules.
struct ListRules(AlertRpc);

impl Handler for ListRules {
    handles!(Alerts(ListAlertsRequest));

    fn visit_channels(&self, _request: &ListAlertsRequest, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: ListAlertsRequest,
    ) -> Result<Data, Error> {
        // The reply counts in the outbox before it is made.
        let room = command.reserve_reply(self.0.page_bytes() / 2);
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let listed = self.0.list_as(&caller, &request, room.bytes());
        reply_from_core(listed.await, Data::Alerts)
    }
}

/// Deletes a rule.
struct Delete(AlertRpc);

impl Handler for Delete {
    handles!(AlertDelete(DeleteAlertRequest));

    fn visit_channels(&self, _request: &DeleteAlertRequest, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: DeleteAlertRequest,
    ) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let deleted = self.0.delete_as(&caller, request);
        reply_from_core(deleted.await, Data::AlertDeleted)
    }
}

/// Explains a rule.
struct Explain(AlertRpc);

impl Handler for Explain {
    handles!(AlertExplain(ExplainAlertRequest));

    fn visit_channels(&self, _request: &ExplainAlertRequest, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: ExplainAlertRequest,
    ) -> Result<Data, Error> {
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let explained = self.0.explain_as(&caller, &request);
        reply_from_core(explained.await, Data::AlertExplained)
    }
}

/// Lists what fired.
struct ListFires(AlertRpc);

impl Handler for ListFires {
    handles!(AlertLog(ListFiresRequest));

    fn visit_channels(&self, _request: &ListFiresRequest, visit: &mut dyn FnMut(&str)) {
        visit(RULES);
    }

    async fn answer(
        &self,
        command: &Command,
        mut request: ListFiresRequest,
    ) -> Result<Data, Error> {
        // The reply counts in the outbox before it is made.
        let room = command.reserve_reply(self.0.page_bytes() / 2);
        let caller = command.caller();
        request.user = own_user(&caller.identity, request.user);
        let listed = self.0.fires_as(&caller, &request, room.bytes());
        reply_from_core(listed.await, Data::AlertLog)
    }
}
