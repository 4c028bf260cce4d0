//! Measures what gates ask for, from outside of the machines: HTTP, TCP, DNS, certificates, Prometheus.
//!
//! Every measurement is bounded in time and in what it reads, goes nowhere but to the address in the
//! configuration, and ends with a finding and what was seen. Nothing is decided here.

mod address;
mod certificate;
mod dns;
mod http;
mod prometheus;
mod rank;
mod tcp;

use std::{sync::Arc, time::Duration};

use common::{
    Timestamp,
    text::{DETAIL_MAX, tame_line},
};
use coordinator_core::{
    Request,
    analysis::{Finding, Gate, Measurement, Probe},
};
use platform::clock::Clock;
use reqwest::{Client, redirect::Policy};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::driver::Handle;

/// Measurements that may wait to be begun.
pub const QUEUE: usize = 1024;

/// Measurements that run at the same time.
const AT_ONCE: usize = 64;

/// What a measurement found, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub finding: Finding,
    /// In a few words.
    pub detail: String,
}

impl Found {
    fn pass(detail: impl Into<String>) -> Self {
        Self::new(Finding::Pass, detail)
    }

    fn fail(detail: impl Into<String>) -> Self {
        Self::new(Finding::Fail, detail)
    }

    fn inconclusive(detail: impl Into<String>) -> Self {
        Self::new(Finding::Inconclusive, detail)
    }

    fn error(detail: impl Into<String>) -> Self {
        Self::new(Finding::Error, detail)
    }

    fn new(finding: Finding, detail: impl Into<String>) -> Self {
        Self {
            finding,
            detail: tame_line(&detail.into(), DETAIL_MAX),
        }
    }
}

/// The times that a comparison looks at.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the wave opened.
    pub opened: Timestamp,
    /// Since when everybody is back.
    pub since: Timestamp,
    /// Now.
    pub at: Timestamp,
}

/// Makes measurements.
#[derive(Clone, Debug)]
pub struct Prober {
    client: Client,
}

impl Prober {
    /// One that trusts the host's certificate authorities.
    ///
    /// # Errors
    /// When HTTPS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        // reqwest takes the process's provider; that one is set already is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            // An address that answers with another one is not followed: it could lead inside.
            .redirect(Policy::none())
            // Nor does the environment send it elsewhere.
            .no_proxy()
            // Each measurement is one of how it is now.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("lab-coordinator/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client })
    }

    /// Makes one measurement, in the gate's time.
    pub async fn measure(&self, gate: &Gate, times: Times) -> Found {
        let measured = timeout(gate.timeout, self.probe(&gate.probe, times)).await;
        measured.unwrap_or_else(|_| too_late(&gate.probe, gate.timeout))
    }

    async fn probe(&self, probe: &Probe, times: Times) -> Found {
        match probe {
            Probe::Http {
                url,
                status,
                contains,
                within,
            } => http::get(&self.client, url, *status, contains.as_deref(), *within).await,
            Probe::Tcp { address } => tcp::connect(address).await,
            Probe::Dns { name, answer } => dns::resolve(name, *answer).await,
            Probe::Certificate { address, days_left } => {
                // Certificates live in the host's time, whatever clock the fleet has.
                certificate::look(address, *days_left, Clock::system().now()).await
            }
            Probe::Promql {
                prometheus,
                query,
                test,
            } => prometheus::ask(&self.client, prometheus, query, test, times).await,
            Probe::HealthCheck { .. } => Found::error("the machines say this themselves"),
        }
    }
}

/// No answer in time: of what is to answer itself that is the answer.
fn too_late(probe: &Probe, limit: Duration) -> Found {
    let detail = format!("no answer within {limit:?}");
    match probe {
        Probe::Http { .. } | Probe::Tcp { .. } => Found::fail(detail),
        Probe::Dns { .. }
        | Probe::Certificate { .. }
        | Probe::Promql { .. }
        | Probe::HealthCheck { .. } => Found::error(detail),
    }
}

/// Measures what the driver asks for until it is gone, and tells it what was found.
pub async fn run(mut wanted: mpsc::Receiver<Measurement>, handle: Handle) {
    let prober = match Prober::new() {
        Ok(prober) => prober,
        Err(error) => {
            let error = common::error_chain::Chain(&error);
            return tracing::error!("gates cannot be measured: {error}");
        }
    };
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(measurement) = wanted.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (prober, handle) = (prober.clone(), handle.clone());
        tokio::spawn(async move {
            let Measurement {
                id,
                gate,
                opened,
                since,
                at,
                ..
            } = measurement;
            let times = Times { opened, since, at };
            let Found { finding, detail } = prober.measure(&gate, times).await;
            let request = Request::Measured {
                id,
                finding,
                detail,
            };
            // A driver that has ended asks again when it begins anew.
            drop(handle.ask(request).await);
            drop(slot);
        });
    }
}
