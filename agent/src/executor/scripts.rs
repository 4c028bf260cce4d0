//! The machine's own scripts, its hooks and the one for its traffic: what they are told, and what their end
//! means.

use std::path::Path;

use agent_core::{Answer, Done, Failure, Hook, HookContext, HookEnd, Job};
use common::{Gets, TrafficCall};

use super::{Executor, answer};
use crate::host::{End, Family, Host, HostError, Resources, RunAs, Unit};

/// A script to run.
struct Script<'a> {
    family: Family,
    path: &'a Path,
    /// What it is run for: one line for a person.
    what: String,
    environment: Vec<(String, String)>,
}

impl<H: Host> Executor<H> {
    pub(super) async fn hook(
        &self,
        job: &Job,
        hook: Hook,
        context: &HookContext,
    ) -> Result<Answer, HostError> {
        let hooks = &self.config.hooks;
        let (family, path, name) = match hook {
            Hook::Pre => (Family::PreHook, &hooks.pre_update, "pre-update"),
            Hook::Post => (Family::PostHook, &hooks.post_update, "post-update"),
            Hook::Rollback => (Family::RollbackHook, &hooks.rollback, "rollback"),
        };
        let Some(path) = path else {
            return Ok(answer(Ok(Done::Hook(HookEnd::NotConfigured))));
        };
        if hook == Hook::Rollback && !self.host.has_unit(job.step).await? {
            // A hook that was given up on may be at work still: never two beside each other.
            let others = [Family::PreHook, Family::PostHook];
            self.host.stop(&others).await?;
        }
        let script = Script {
            family,
            path,
            what: format!("{name} hook, lease {}", context.lease),
            environment: hook_environment(name, context),
        };
        let end = |ended| match ended {
            Ok(()) => Ok(Done::Hook(HookEnd::Succeeded)),
            Err(status) => Ok(Done::Hook(HookEnd::Failed { status })),
        };
        self.run_script(job, script, end).await
    }

    pub(super) async fn move_traffic(
        &self,
        job: &Job,
        call: &TrafficCall,
    ) -> Result<Answer, HostError> {
        let Some(path) = &self.config.hooks.traffic else {
            let why = "the machine has no traffic script any more";
            return Ok(answer(Err(Failure::Failed(why.to_owned()))));
        };
        if !self.host.has_unit(job.step).await? {
            // One that was given up on may be at work still: never two beside each other.
            self.host.stop(&[Family::Traffic]).await?;
        }
        let order = &call.order;
        let (gets, number, group) = (word(order.gets), order.number, &order.group);
        let script = Script {
            family: Family::Traffic,
            path,
            what: format!("traffic {gets}, move {number} of group {group}"),
            environment: traffic_environment(call),
        };
        let end = |ended: Result<(), String>| match ended {
            Ok(()) => Ok(Done::TrafficMoved),
            Err(why) => Err(Failure::Failed(why)),
        };
        self.run_script(job, script, end).await
    }

    /// Runs a script, or waits for it; `end` says what comes of one that ended in its time: well, or how else.
    async fn run_script(
        &self,
        job: &Job,
        script: Script<'_>,
        end: impl FnOnce(Result<(), String>) -> Result<Done, Failure>,
    ) -> Result<Answer, HostError> {
        let unit = Unit {
            family: script.family,
            tag: job.step.to_string(),
            description: format!("lab-updater: {}", script.what),
            command: vec![script.path.to_string_lossy().into_owned()],
            environment: script.environment,
            within: job.within,
            resources: Resources::tasks(self.config.limits.hook_tasks_max),
            run_as: RunAs::Root,
            may_begin: job.may_begin,
        };
        let ran = self.host.run(&unit).await?;
        let result = match ran.end {
            End::Exited(0) => end(Ok(())),
            End::TimedOut => Err(Failure::TimedOut),
            other @ (End::Exited(_) | End::Signal(_) | End::NotStarted(_)) => {
                end(Err(other.to_string()))
            }
        };
        Ok(Answer {
            result,
            output: ran.output,
        })
    }
}

fn hook_environment(name: &str, context: &HookContext) -> Vec<(String, String)> {
    let pairs = [
        ("LAB_PHASE", name.to_owned()),
        ("LAB_ROLLOUT", context.rollout.to_string()),
        ("LAB_LEASE", context.lease.to_string()),
        ("LAB_TARGET", context.target.to_string()),
        ("LAB_PREVIOUS", context.previous.to_string()),
        ("LAB_REBOOT", u8::from(context.reboot).to_string()),
        ("LAB_REASON", context.reason.clone()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// What becomes of the machine, in the traffic script's word.
fn word(gets: Gets) -> &'static str {
    match gets {
        Gets::Traffic => "in",
        Gets::Nothing => "out",
    }
}

fn traffic_environment(call: &TrafficCall) -> Vec<(String, String)> {
    let pairs = [
        ("LAB_TRAFFIC", word(call.order.gets).to_owned()),
        ("LAB_GROUP", call.order.group.to_string()),
        ("LAB_SIDE", call.side.to_string()),
        ("LAB_DRAIN_SECONDS", call.drain.as_secs().to_string()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
