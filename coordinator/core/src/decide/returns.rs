//! Machines that ask to return after their certificate has ended, and the operator who lets them.

use common::{MachineName, OperatorName, Timestamp};

use super::Draft;
use crate::{
    change::Change,
    fleet::Fleet,
    identity::{Holder, Who},
    request::{AskToReturn, AuditEntry, Refusal, Reply},
    returns::{APPROVED_FOR, NO_WAY_BACK, NoWayBack, WayBack},
};

impl Fleet {
    pub(super) fn ask_to_return(
        &mut self,
        now: Timestamp,
        asked: AskToReturn,
        draft: &mut Draft,
    ) -> Reply {
        let AskToReturn {
            machine,
            serial,
            key,
            from,
            new_serial,
            expires_at,
        } = asked;
        let registry = &self.facts().registry;
        let way = match registry.way_back(&machine, &serial, &key, now) {
            // As for a token: only machines of the configuration are let in.
            Ok(_) if self.group_of(&machine).is_none() => Err("not in the configuration"),
            Ok(way) => Ok(way),
            Err(NoWayBack::Good) => {
                let text = "this certificate has not ended: it is renewed as usual".to_owned();
                return Reply::Refused(Refusal::NotNow(text));
            }
            Err(why) => Err(why.word()),
        };
        let holder = Holder::Machine(machine.clone());
        match way {
            Ok(WayBack::Wait) => Reply::ReturnPending,
            Ok(WayBack::Again(serial, certificate)) => Reply::Returns {
                serial: serial.to_owned(),
                expires_at: certificate.expires_at,
                holder,
            },
            Ok(WayBack::Ask) => {
                draft.audit = Some(audited(&machine, &serial, "ask-to-return", &from, "done"));
                self.commit(
                    draft,
                    Change::ReturnAsked {
                        machine,
                        serial,
                        key,
                        from,
                        at: now,
                    },
                );
                Reply::ReturnPending
            }
            Ok(WayBack::Go) => {
                let object = format!("{from}, certificate {new_serial}");
                draft.audit = Some(audited(&machine, &serial, "return", &object, "done"));
                let serial = new_serial.clone();
                self.commit(draft, Change::ReturnAnswered { machine, serial });
                self.issue(
                    now,
                    holder.clone(),
                    new_serial.clone(),
                    expires_at,
                    None,
                    draft,
                );
                Reply::Returns {
                    serial: new_serial,
                    expires_at,
                    holder,
                }
            }
            Err(why) => {
                if let Some(more) = self.worth_a_record(now, &format!("return {machine}")) {
                    let result = format!("refused: the certificate is {why}{more}");
                    draft.audit = Some(audited(&machine, &serial, "ask-to-return", &from, &result));
                }
                // One answer for all, as for tokens.
                Reply::Refused(Refusal::Forbidden(NO_WAY_BACK.to_owned()))
            }
        }
    }

    /// An operator lets a machine return that asks to.
    pub(super) fn approve_return(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        machine: MachineName,
        key: Option<&str>,
        draft: &mut Draft,
    ) -> Reply {
        let not_found = |what| {
            let name = machine.to_string();
            Reply::Refused(Refusal::NotFound { what, name })
        };
        if self.group_of(&machine).is_none() {
            return not_found("machine in the configuration");
        }
        let registry = &self.facts().registry;
        let asked = registry.returns.get(&machine);
        let Some(asked) = asked.filter(|asked| asked.open) else {
            return not_found("request to return of machine");
        };
        if key.is_some_and(|key| key != asked.key) {
            let text = format!("{machine} asks with another key now: {}", asked.key);
            return Reply::Refused(Refusal::Changed(text));
        }
        let days = APPROVED_FOR.as_secs() / (24 * 3600);
        match registry.way_back(&machine, &asked.serial, &asked.key, now) {
            Ok(WayBack::Go) => return Reply::Done(format!("{machine} may return already")),
            Ok(WayBack::Ask | WayBack::Wait) => {}
            Ok(WayBack::Again(..)) | Err(NoWayBack::Good) => {
                let text = format!("the certificate of {machine} is good: it does not need this");
                return Reply::Refused(Refusal::NotNow(text));
            }
            Err(NoWayBack::Unknown | NoWayBack::Revoked | NoWayBack::Replaced) => {
                return not_found("request to return of machine");
            }
        }
        let text =
            format!("{machine} may return, once, within {days} days, with the key that asks");
        let (by, until) = (by.to_string(), now + APPROVED_FOR);
        self.commit(
            draft,
            Change::ReturnApproved {
                machine,
                by,
                at: now,
                until,
            },
        );
        Reply::Done(text)
    }
}

/// A record of the audit log about a machine that showed its certificate.
fn audited(
    machine: &MachineName,
    serial: &str,
    action: &str,
    from: &str,
    result: &str,
) -> AuditEntry {
    AuditEntry {
        who: Who::Machine {
            name: machine.clone(),
            serial: serial.to_owned(),
        },
        action: action.to_owned(),
        object: format!("machine {machine} from {from}"),
        reason: String::new(),
        result: result.to_owned(),
    }
}
