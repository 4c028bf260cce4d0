//! What operators ask, and what the audit log keeps of it.

use std::{collections::BTreeSet, time::Duration};

use common::{GroupName, MachineName, StopMode, Target, Timestamp};

use super::{Draft, or_refused};
use crate::{
    analysis::Resumption,
    approval::Answer,
    change::Change,
    config::FleetConfig,
    fleet::{CheckWanted, Fleet},
    identity::{Actor, Who},
    request::{AuditEntry, OperatorRequest, Refusal, Reply, Selection, Which},
};

/// Longest reason or comment, in bytes.
const REASON_MAX: usize = 1024;

impl Fleet {
    pub(super) fn operator(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        request: OperatorRequest,
        draft: &mut Draft,
    ) -> Reply {
        let audit = subject(&request);
        let reply = self.ask(now, actor, request, draft);
        if let Some((action, object, reason)) = audit {
            let result = match reply.refusal() {
                Some(refusal) => format!("refused: {refusal}"),
                None => "done".to_owned(),
            };
            draft.audit = Some(AuditEntry {
                who: Who::Operator(actor.clone()),
                action: action.to_owned(),
                object,
                reason,
                result,
            });
        }
        reply
    }

    fn ask(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        request: OperatorRequest,
        draft: &mut Draft,
    ) -> Reply {
        let by = &actor.name;
        match request {
            OperatorRequest::Plan(wish) => {
                let plan = self.plan(&wish);
                or_refused(plan.map(|plan| {
                    let outlook = self.outlook(&plan, wish.immediate, now);
                    Reply::Plan(Box::new(plan), Box::new(outlook))
                }))
            }
            OperatorRequest::Execute { wish, if_plan } => {
                or_refused(self.execute(now, by.as_str().into(), &wish, if_plan.as_deref(), draft))
            }
            OperatorRequest::PinTargets { targets, .. } => self.pin(now, by, targets, draft),
            OperatorRequest::Approve {
                rollout,
                group,
                reject,
                comment,
            } => {
                let answer = Answer {
                    rollout,
                    group,
                    reject,
                    comment: &comment,
                };
                or_refused(self.approve(now, by, answer, draft))
            }
            OperatorRequest::Promote { promotion, reason } => {
                or_refused(self.promote(now, by, promotion, &reason, draft))
            }
            OperatorRequest::Pause { rollout, reason } => {
                or_refused(self.pause(by, rollout, reason, draft))
            }
            OperatorRequest::ResumeRollout { rollout, reason } => {
                let how = (Resumption::AcceptsFailed, reason);
                or_refused(self.resume_rollout(now, by, rollout, how, draft))
            }
            OperatorRequest::MeasureAgain { rollout, reason } => {
                let how = (Resumption::MeasuresAnew, reason);
                or_refused(self.resume_rollout(now, by, rollout, how, draft))
            }
            OperatorRequest::Abort { rollout, reason } => {
                or_refused(self.abort(now, by, rollout, reason, draft))
            }
            OperatorRequest::EmergencyStop {
                groups,
                mode,
                reason,
            } => self.emergency_stop(now, by.as_str(), groups, mode, reason, draft),
            OperatorRequest::Resume { reason } => self.lift(now, by.as_str(), reason, draft),
            OperatorRequest::RequestHealthCheck { selection, timeout } => {
                or_refused(self.request_checks(&selection, timeout, draft))
            }
            OperatorRequest::ForgetMachine { machine, reason } => {
                self.forget(now, by, machine, reason, draft)
            }
            OperatorRequest::Quarantine { machines, reason } => {
                or_refused(self.quarantine(now, by, machines, &reason, draft))
            }
            OperatorRequest::Release { machines, .. } => {
                or_refused(self.release(now, by, machines, draft))
            }
            OperatorRequest::QuarantineTarget { target, reason } => {
                or_refused(self.quarantine_target(now, by, &target, reason, draft))
            }
            OperatorRequest::ReleaseTarget { target, .. } => {
                or_refused(self.release_target(now, by, &target, draft))
            }
            OperatorRequest::CheckConfig(config) => or_refused(self.check_config(now, &config)),
            OperatorRequest::SetConfig {
                config,
                if_revision,
                reason,
            } => {
                let by = (by.as_str(), reason);
                or_refused(self.set_config(now, by, config, if_revision, draft))
            }
            OperatorRequest::CreateToken {
                secret_hash,
                holder,
                expires_at,
            } => self.create_token(now, by, secret_hash, holder, expires_at, draft),
            OperatorRequest::RevokeToken { id, .. } => self.revoke_token(id, draft),
            OperatorRequest::RevokeIdentity { which, .. } => self.revoke_identity(which, draft),
            OperatorRequest::ApproveReturn { machine, key, .. } => {
                self.approve_return(now, by, machine, key.as_deref(), draft)
            }
            OperatorRequest::RunSchedule { schedule, .. } => {
                or_refused(self.run_schedule(now, by, &schedule, draft))
            }
            OperatorRequest::SkipSchedule { schedule, reason } => {
                or_refused(self.skip_schedule(now, by, &schedule, reason, draft))
            }
            OperatorRequest::MoveTraffic { group, to, .. } => {
                or_refused(self.move_traffic(now, by, &group, to.as_ref(), draft))
            }
            OperatorRequest::Notify { channel, .. } => or_refused(self.notify(channel)),
        }
    }

    fn pin(
        &mut self,
        now: Timestamp,
        by: &common::OperatorName,
        targets: Vec<(MachineName, Target)>,
        draft: &mut Draft,
    ) -> Reply {
        if let Some((unknown, _)) = targets.iter().find(|(m, _)| self.group_of(m).is_none()) {
            let (what, name) = ("machine in the configuration", unknown.to_string());
            return Reply::Refused(Refusal::NotFound { what, name });
        }
        let machines: Vec<MachineName> = targets.iter().map(|(m, _)| m.clone()).collect();
        if !targets.is_empty() {
            self.commit(
                draft,
                Change::Pinned {
                    targets,
                    by: by.to_string(),
                    at: now,
                },
            );
        }
        draft.wake.extend(machines.iter().cloned());
        Reply::Pinned(machines)
    }

    fn emergency_stop(
        &mut self,
        now: Timestamp,
        by: &str,
        groups: Vec<GroupName>,
        mode: StopMode,
        reason: String,
        draft: &mut Draft,
    ) -> Reply {
        let known = |group: &&GroupName| {
            !self
                .facts()
                .config
                .as_ref()
                .is_some_and(|c| c.groups.contains_key(*group))
        };
        if let Some(unknown) = groups.iter().find(known) {
            let name = unknown.to_string();
            return Reply::Refused(Refusal::NotFound {
                what: "group",
                name,
            });
        }
        let epoch = self.facts().epoch.next();
        let by = by.to_owned();
        self.commit(
            draft,
            Change::Stopped {
                epoch,
                groups,
                mode,
                by,
                reason,
                at: now,
            },
        );
        draft.broadcast = true;
        Reply::Stopped(epoch)
    }

    fn lift(&mut self, now: Timestamp, by: &str, reason: String, draft: &mut Draft) -> Reply {
        if reason.trim().is_empty() {
            let text = "lifting an emergency stop takes a reason".to_owned();
            return Reply::Refused(Refusal::Invalid(text));
        }
        if self.facts().stop.is_none() {
            return Reply::Refused(Refusal::NotNow("no emergency stop holds".to_owned()));
        }
        for number in self.index().unfinished.clone() {
            self.all_moved(number, now);
        }
        self.commit(
            draft,
            Change::StopLifted {
                by: by.to_owned(),
                reason,
            },
        );
        draft.broadcast = true;
        Reply::Done("the emergency stop is lifted".to_owned())
    }

    fn request_checks(
        &mut self,
        selection: &Selection,
        timeout: Option<Duration>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let machines = self.select(selection)?;
        let request = self.next_check();
        for machine in &machines {
            let timeout = timeout.unwrap_or_else(|| self.health_timeout(machine));
            self.hearsay
                .checks
                .insert(machine.clone(), CheckWanted { request, timeout });
        }
        draft.wake.extend(machines.iter().cloned());
        Ok(Reply::HealthCheck { request, machines })
    }

    /// Number of a new question for health: past those that machines have answered already, also where the
    /// clock of an earlier life was ahead.
    pub(crate) fn next_check(&mut self) -> u64 {
        let machines = self.facts().machines.values();
        let answered = machines.map(|machine| machine.heard.health_request).max();
        let last = self.hearsay.last_check.max(answered.unwrap_or_default());
        self.hearsay.last_check = last + 1;
        last + 1
    }

    /// How long a machine may take for its health checks.
    pub(crate) fn health_timeout(&self, machine: &MachineName) -> Duration {
        let config = self.facts().config.as_ref();
        let policy = config.and_then(|config| config.policy_of(machine));
        policy.map_or(Duration::from_secs(300), |policy| policy.health_timeout)
    }

    fn notify(&self, channel: String) -> Result<Reply, Refusal> {
        let named = |config: &FleetConfig| {
            let all = config.channels.iter().chain(config.webhooks.keys());
            all.cloned().collect::<BTreeSet<String>>()
        };
        let channels = self.facts().config.as_deref().map(named);
        let channels = channels.unwrap_or_default();
        if channel.is_empty() {
            return Ok(Reply::Notify(channels.into_iter().collect()));
        }
        if channels.contains(&channel) {
            return Ok(Reply::Notify(vec![channel]));
        }
        Err(Refusal::NotFound {
            what: "notification channel",
            name: channel,
        })
    }

    /// The machines of a selection, in the configuration's order.
    pub(crate) fn select(&self, selection: &Selection) -> Result<Vec<MachineName>, Refusal> {
        let Some(config) = &self.facts().config else {
            let text = "there is no fleet configuration yet: `lab update-config import FILE`";
            return Err(Refusal::NotNow(text.to_owned()));
        };
        let unknown = |what, name: &dyn ToString| Refusal::NotFound {
            what,
            name: name.to_string(),
        };
        if let Some(group) = selection
            .groups
            .iter()
            .find(|g| !config.groups.contains_key(*g))
        {
            return Err(unknown("group", group));
        }
        if let Some(machine) = selection
            .machines
            .iter()
            .find(|m| !config.group_of.contains_key(*m))
        {
            return Err(unknown("machine", machine));
        }
        let all = selection.groups.is_empty() && selection.machines.is_empty();
        let chosen = config.groups.iter().flat_map(|(name, group)| {
            let whole = all || selection.groups.contains(name);
            group
                .machines
                .iter()
                .filter(move |m| whole || selection.machines.contains(m))
        });
        Ok(chosen.cloned().collect())
    }
}

fn all_of(machines: &[MachineName]) -> String {
    let machines = machines.iter().map(|machine| format!("machine {machine}"));
    machines.collect::<Vec<_>>().join(", ")
}

/// What the audit log says of a request: action, object, reason. Looking is not audited.
fn subject(request: &OperatorRequest) -> Option<(&'static str, String, String)> {
    let of = |selection: &Selection| {
        let groups = selection.groups.iter().map(|g| format!("group {g}"));
        let machines = selection.machines.iter().map(|m| format!("machine {m}"));
        let parts: Vec<String> = groups.chain(machines).collect();
        if parts.is_empty() {
            "the fleet".to_owned()
        } else {
            parts.join(", ")
        }
    };
    let rollout = |id: &Option<common::RolloutId>| {
        id.as_ref().map_or_else(
            || "the only rollout".to_owned(),
            |id| format!("rollout {id}"),
        )
    };
    let (action, object, reason) = match request {
        OperatorRequest::Plan(_) | OperatorRequest::CheckConfig(_) => return None,
        OperatorRequest::Execute { wish, .. } => {
            ("execute", of(&wish.selection), wish.reason.as_str())
        }
        OperatorRequest::PinTargets { targets, reason } => (
            "prepare",
            format!("{} machines", targets.len()),
            reason.as_str(),
        ),
        OperatorRequest::Approve {
            rollout: id,
            group,
            reject,
            comment,
        } => {
            let action = if *reject { "reject" } else { "approve" };
            let group = group
                .as_ref()
                .map_or_else(String::new, |g| format!(", group {g}"));
            (action, format!("{}{group}", rollout(id)), comment.as_str())
        }
        OperatorRequest::Promote { promotion, reason } => {
            let group = promotion
                .group
                .as_ref()
                .map_or_else(String::new, |g| format!(", group {g}"));
            let object = format!("{}{group}", rollout(&promotion.rollout));
            ("promote", object, reason.as_str())
        }
        OperatorRequest::Pause {
            rollout: id,
            reason,
        } => ("pause", rollout(id), reason.as_str()),
        OperatorRequest::ResumeRollout {
            rollout: id,
            reason,
        } => ("resume-rollout", rollout(id), reason.as_str()),
        OperatorRequest::MeasureAgain {
            rollout: id,
            reason,
        } => {
            let object = format!("{}, measured again", rollout(id));
            ("resume-rollout", object, reason.as_str())
        }
        OperatorRequest::Abort {
            rollout: id,
            reason,
        } => ("abort", rollout(id), reason.as_str()),
        OperatorRequest::EmergencyStop { groups, reason, .. } => {
            let selection = Selection {
                groups: groups.clone(),
                machines: Vec::new(),
            };
            ("emergency-stop", of(&selection), reason.as_str())
        }
        OperatorRequest::Resume { reason } => ("resume", "the fleet".to_owned(), reason.as_str()),
        OperatorRequest::RequestHealthCheck { selection, .. } => {
            ("health-check", of(selection), "")
        }
        OperatorRequest::ForgetMachine { machine, reason } => {
            ("forget", format!("machine {machine}"), reason.as_str())
        }
        OperatorRequest::Quarantine { machines, reason } => {
            ("quarantine", all_of(machines), reason.as_str())
        }
        OperatorRequest::Release { machines, reason } => {
            ("release", all_of(machines), reason.as_str())
        }
        OperatorRequest::QuarantineTarget { target, reason } => (
            "quarantine-target",
            format!("target {target}"),
            reason.as_str(),
        ),
        OperatorRequest::ReleaseTarget { target, reason } => (
            "release-target",
            format!("target {target}"),
            reason.as_str(),
        ),
        OperatorRequest::SetConfig { reason, .. } => (
            "set-config",
            "the configuration".to_owned(),
            reason.as_str(),
        ),
        OperatorRequest::CreateToken { holder, .. } => {
            ("create-token", holder.name().to_owned(), "")
        }
        OperatorRequest::RevokeToken { id, reason } => {
            ("revoke-token", format!("token {id}"), reason.as_str())
        }
        OperatorRequest::RevokeIdentity { which, reason } => {
            let (Which::Serial(object) | Which::Name(object)) = which;
            ("revoke-identity", object.clone(), reason.as_str())
        }
        OperatorRequest::ApproveReturn {
            machine, reason, ..
        } => (
            "approve-identity",
            format!("machine {machine}"),
            reason.as_str(),
        ),
        OperatorRequest::RunSchedule { schedule, reason } => (
            "run-schedule",
            format!("schedule {schedule}"),
            reason.as_str(),
        ),
        OperatorRequest::SkipSchedule { schedule, reason } => (
            "skip-schedule",
            format!("schedule {schedule}"),
            reason.as_str(),
        ),
        OperatorRequest::MoveTraffic { group, to, reason } => {
            let to = to
                .as_ref()
                .map_or_else(|| "back".to_owned(), |to| format!("to side {to}"));
            (
                "move-traffic",
                format!("group {group}, {to}"),
                reason.as_str(),
            )
        }
        OperatorRequest::Notify {
            channel, message, ..
        } => ("notify", channel.clone(), message.as_str()),
    };
    Some((action, object, common::text::tame_line(reason, REASON_MAX)))
}
