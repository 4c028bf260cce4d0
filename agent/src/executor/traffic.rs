//! The machine's own traffic script: what it is told, and what its end means.

use agent_core::{Answer, Done, Failure, Job};
use common::{Gets, TrafficCall};

use super::{Executor, answer};
use crate::host::{End, Family, Host, HostError, Resources, RunAs, Unit};

impl<H: Host> Executor<H> {
    pub(super) async fn move_traffic(
        &self,
        job: &Job,
        call: &TrafficCall,
    ) -> Result<Answer, HostError> {
        let Some(script) = &self.config.hooks.traffic else {
            let why = "the machine has no traffic script any more";
            return Ok(answer(Err(Failure::Failed(why.to_owned()))));
        };
        if !self.host.has_unit(job.step).await? {
            // One that was given up on may be at work still: never two beside each other.
            self.host.stop(&[Family::Traffic]).await?;
        }
        let order = &call.order;
        let unit = Unit {
            family: Family::Traffic,
            tag: job.step.to_string(),
            description: format!(
                "lab-updater: traffic {}, move {} of group {}",
                word(order.gets),
                order.number,
                order.group
            ),
            command: vec![script.to_string_lossy().into_owned()],
            environment: traffic_environment(call),
            within: job.within,
            resources: Resources::tasks(self.config.limits.hook_tasks_max),
            run_as: RunAs::Root,
            may_begin: job.may_begin,
        };
        let ran = self.host.run(&unit).await?;
        let result = match ran.end {
            End::Exited(0) => Ok(Done::TrafficMoved),
            End::TimedOut => Err(Failure::TimedOut),
            end @ (End::Exited(_) | End::Signal(_) | End::NotStarted(_)) => {
                Err(Failure::Failed(end.to_string()))
            }
        };
        Ok(Answer {
            result,
            output: ran.output,
        })
    }
}

/// What becomes of the machine, in the script's word.
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
