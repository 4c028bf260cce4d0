//! Asking to return after the certificate has ended: how often, and what the journal says of it.

use std::{cell::RefCell, time::Duration};

use common::{MachineName, error_chain::Chain, text};
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
        self.ask_at(Instant::now(), dial, old).await
    }

    async fn ask_at(
        &self,
        now: Instant,
        dial: &Dial,
        old: &Identity,
    ) -> Result<Identity, LinkError> {
        if let Some((next, text)) = &self.asked.borrow().next
            && now < *next
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
        asked.next = Some((now + pause, text.clone()));
        Err(LinkError::Unconnected(text))
    }
}

/// SHA-256 of the public key, hexadecimal: as `lab identity list` shows it.
fn key_of(identity: &Identity) -> String {
    let hash = identity.chain().first().and_then(key_hash);
    hash.map(|hash| text::hex(&hash)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use platform::channel::ConnectError;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, SanType,
    };

    use super::*;

    fn identity() -> Identity {
        let mut of_ca = CertificateParams::default();
        of_ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(of_ca, key).expect("a CA");
        let mut leaf = CertificateParams::default();
        let name = "spiffe://lab-updater/machine/web-01".try_into();
        leaf.subject_alt_names = vec![SanType::URI(name.expect("ASCII"))];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.signed_by(&key, &ca).expect("a certificate");
        let chain = format!("{}{}", certificate.pem(), ca.pem());
        Identity::from_parts(&key.serialize_pem(), &chain).expect("sound")
    }

    #[tokio::test]
    async fn however_often_there_is_a_reason_it_asks_in_its_own_time() {
        let old = identity();
        let dialled = Rc::new(Cell::new(0_u32));
        let count = dialled.clone();
        let dial: Dial = Rc::new(move |address, _| {
            count.set(count.get() + 1);
            Box::pin(async move {
                let after = Duration::from_secs(5);
                Err(ConnectError::Deadline { address, after })
            })
        });
        let machine = "web-01".parse().expect("a name");
        let returning = Returning::new(machine, "coordinator:7444".to_owned());
        let mut now = Instant::now();
        let error = returning.ask_at(now, &dial, &old).await;
        let error = error.err().expect("no answer");
        let text = error.to_string();
        assert!(text.contains("lab token create --machine web-01"), "{text}");
        // Ten times a second, for an hour: never a pause longer than the ceiling.
        let (mut asked, mut quiet) = (dialled.get(), Duration::ZERO);
        let moment = Duration::from_millis(100);
        for _ in 0..36_000 {
            now += moment;
            let again = returning.ask_at(now, &dial, &old).await;
            assert_eq!(again.err().expect("no answer").to_string(), text);
            quiet += moment;
            if dialled.get() != asked {
                asked = dialled.get();
                quiet = Duration::ZERO;
            }
            assert!(quiet <= PAUSE_MAX + moment, "{quiet:?}");
        }
        // On average it asks once in half the ceiling: 60 times, and some more in the beginning.
        assert!((30..=150).contains(&asked), "{asked} times in an hour");
    }
}
