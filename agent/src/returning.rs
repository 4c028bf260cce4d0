//! Asking to return after the certificate has ended: how often, and what the journal says of it.

use std::{cell::RefCell, time::Duration};

use common::{MachineName, error_chain::Chain};
use platform::{
    enrol::{self, EnrolError, key_hash},
    identity::Identity,
};
use tokio::time::Instant;

use crate::{
    coordinator_client::Dial,
    jitter::{self, Pauses},
    link::LinkError,
};

/// Ceiling of the pause after the first question.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

/// Ceiling of every pause: whoever has been approved waits no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// One machine's way back, asked for in its own time however often there is a reason to.
pub(crate) struct Returning {
    machine: MachineName,
    /// Of the enrolment service.
    address: String,
    asked: RefCell<Asked>,
}

struct Asked {
    pauses: Pauses,
    times: u32,
    /// Nothing is asked before, and what came of the last time is the answer until then.
    next: Option<(Instant, String)>,
    /// Whether the journal has it.
    said: bool,
}

impl Returning {
    pub(crate) fn new(machine: MachineName, address: String) -> Self {
        let asked = Asked {
            pauses: Pauses::new(jitter::seed()),
            times: 0,
            next: None,
            said: false,
        };
        Self {
            machine,
            address,
            asked: RefCell::new(asked),
        }
    }

    /// Another identity with the key of this one, whose certificate has ended, if somebody has
    /// approved that.
    pub(crate) async fn ask(&self, dial: &Dial, old: &Identity) -> Result<Identity, LinkError> {
        if let Some((next, text)) = &self.asked.borrow().next
            && Instant::now() < *next
        {
            return Err(LinkError::Unconnected(text.clone()));
        }
        let answer = match dial(self.address.clone(), old.clone()).await {
            Ok(channel) => enrol::ask_to_return(channel, old).await,
            Err(error) => Err(EnrolError::Connect(error)),
        };
        let mut asked = self.asked.borrow_mut();
        let machine = &self.machine;
        let text = match answer {
            Ok(Some(new)) => {
                asked.times = 0;
                asked.next = None;
                asked.said = false;
                return Ok(new);
            }
            Ok(None) => {
                if !asked.said {
                    asked.said = true;
                    tracing::warn!(
                        "the certificate has expired while this machine was away. It has asked to \
                         return with the key {}: `lab identity approve {machine}` lets it, and so \
                         does a token (`lab token create --machine {machine}`)",
                        key_of(old)
                    );
                }
                format!(
                    "the certificate has expired; this machine has asked to return and waits for \
                     `lab identity approve {machine}`"
                )
            }
            Err(error) => format!(
                "the certificate has expired, and this machine cannot ask to return ({}): it takes \
                 a token, `lab token create --machine {machine}`",
                Chain(&error)
            ),
        };
        let times = asked.times;
        asked.times = times.saturating_add(1);
        let pause = asked.pauses.backoff(PAUSE_FIRST, PAUSE_MAX, times);
        asked.next = Some((Instant::now() + pause, text.clone()));
        Err(LinkError::Unconnected(text))
    }
}

/// SHA-256 of the public key, hexadecimal: as `lab identity list` shows it.
fn key_of(identity: &Identity) -> String {
    let hash = identity.chain().first().and_then(key_hash);
    let bytes = hash.into_iter().flatten();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
