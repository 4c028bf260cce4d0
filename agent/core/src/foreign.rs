//! A state that another version of the agent wrote: read for what this one understands.
//!
//! What matters is that there is always a way back. Of an attempt that is not understood as a whole
//! only that is read which going back takes, and everything else counts as if the machine had been
//! changed; a verdict that is written stays, whatever its word.

use std::collections::BTreeMap;

use common::{
    Action, BootId, Epoch, LeaseId, Outcome, OutcomeKind, RolloutId, StopMode, StorePath, text,
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    cause::Cause,
    limits::Limits,
    reading::line,
    state::{
        Attempt, Baseline, BootMoment, HookState, Hooks, Mode, Previous, RECORDS_MAX, RebootKind,
        Record, Step,
    },
};

/// Something this agent has the words for, or anything else.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Readable<T> {
    Known(T),
    Foreign(IgnoredAny),
}

impl<T> Readable<T> {
    fn known(self) -> Option<T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Foreign(_) => None,
        }
    }
}

/// A value, or its default where it is of a kind that this agent does not know.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Readable::deserialize(from)?.known().unwrap_or_default())
}

/// What this agent has no word for, as it was said.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Said {
    Word(String),
    Told(BTreeMap<String, Readable<String>>),
    Unspeakable(IgnoredAny),
}

impl Said {
    /// One bounded line.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Word(word) => line(&word),
            Self::Told(pairs) => {
                let said = |(word, detail): (String, Readable<String>)| match detail.known() {
                    Some(detail) => format!("{word}: {detail}"),
                    None => word,
                };
                line(&pairs.into_iter().map(said).collect::<Vec<_>>().join("; "))
            }
            Self::Unspeakable(_) => "something without a name".to_owned(),
        }
    }
}

/// A verdict. One of another version needs a person: nobody here knows whether it is good.
pub(crate) fn outcome<'de, D: Deserializer<'de>>(from: D) -> Result<Outcome, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Verdict {
        Known(Outcome),
        Foreign { kind: String, reason: String },
    }
    Ok(match Verdict::deserialize(from)? {
        Verdict::Known(outcome) => outcome,
        Verdict::Foreign { kind, reason } => Outcome {
            kind: OutcomeKind::Stuck,
            reason: text::tame_line(
                &format!("another version of the agent ended it as {kind:?}: {reason}"),
                text::REASON_MAX,
            ),
        },
    })
}

/// The attempt, if there is one.
pub(crate) fn attempt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Attempt>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Found {
        Known(Box<Attempt>),
        Foreign(Box<Essentials>),
    }
    Ok(Option::deserialize(from)?.map(|found| match found {
        Found::Known(attempt) => *attempt,
        Found::Foreign(essentials) => essentials.into_attempt(),
    }))
}

/// What going back takes, and what the result says. Whose it is and where it leads must be
/// readable; everything else helps.
#[derive(Deserialize)]
struct Essentials {
    rollout: RolloutId,
    lease: LeaseId,
    epoch: Epoch,
    lease_until: BootMoment,
    boot_id: BootId,
    previous: Option<Previous>,
    path: Option<StorePath>,
    step: StepFound,
    #[serde(default, deserialize_with = "or_default")]
    mode: Option<Mode>,
    #[serde(default, deserialize_with = "or_default")]
    allow_reboot: bool,
    #[serde(default, deserialize_with = "or_default")]
    reboot_kind: Option<RebootKind>,
    #[serde(default, deserialize_with = "or_default")]
    rollback_on_failure: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    health_timeout_ms: u64,
    #[serde(default, deserialize_with = "or_default")]
    baseline: Baseline,
    #[serde(default, deserialize_with = "or_default")]
    hooks: HooksFound,
    #[serde(default, deserialize_with = "or_default")]
    activations: u32,
    #[serde(default, deserialize_with = "or_default")]
    reboots: u32,
    #[serde(default, deserialize_with = "or_default")]
    steps: u32,
    #[serde(default, deserialize_with = "or_default")]
    stop: Option<StopMode>,
    #[serde(default, deserialize_with = "or_default")]
    cause: Option<Cause>,
    #[serde(default, deserialize_with = "or_default")]
    complaint: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StepFound {
    Known(Step),
    Foreign(Said),
}

#[derive(Default, Deserialize)]
struct HooksFound {
    #[serde(default)]
    pre: HookFound,
    #[serde(default)]
    post: HookFound,
    #[serde(default)]
    rollback: HookFound,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HookFound {
    Known(HookState),
    Foreign(IgnoredAny),
}

impl Default for HookFound {
    fn default() -> Self {
        Self::Known(HookState::NotBegun)
    }
}

impl HookFound {
    fn state(self) -> HookState {
        match self {
            Self::Known(state) => state,
            Self::Foreign(_) => HookState::Unknown,
        }
    }
}

impl Essentials {
    fn into_attempt(self) -> Attempt {
        let step = match self.step {
            StepFound::Known(step @ Step::Closing { .. }) => step,
            StepFound::Known(step) => Step::Unknown(step.word().to_owned()),
            StepFound::Foreign(said) => Step::Unknown(said.text()),
        };
        // Nobody knows what was done, so all of it may have been.
        let touched = self.previous.is_some();
        let booted = if self.reboots > 0 {
            Mode::Boot
        } else {
            Mode::Switch
        };
        let health_timeout_ms = match self.health_timeout_ms {
            0 => u64::try_from(Limits::default().health_timeout.as_millis()).unwrap_or(u64::MAX),
            given => given,
        };
        let mut records = self.records;
        records.truncate(RECORDS_MAX);
        Attempt {
            rollout: self.rollout,
            lease: self.lease,
            epoch: self.epoch,
            lease_until: self.lease_until,
            action: Action::Update,
            target: None,
            path: self.path,
            mode: self.mode.unwrap_or(booted),
            allow_reboot: self.allow_reboot,
            allow_soft_reboot: false,
            reboot_kind: self.reboot_kind.unwrap_or_default(),
            rollback_on_failure: self.rollback_on_failure.unwrap_or(true),
            health_timeout_ms,
            previous: self.previous,
            baseline: self.baseline,
            boot_id: self.boot_id,
            step,
            job: None,
            hooks: Hooks {
                pre: self.hooks.pre.state(),
                post: self.hooks.post.state(),
                rollback: self.hooks.rollback.state(),
            },
            armed: true,
            armed_in: None,
            touched,
            activations: self.activations.max(u32::from(touched)),
            reboots: self.reboots,
            restores: 0,
            reboots_back: 0,
            steps: self.steps,
            force: false,
            stop: self.stop,
            cause: self.cause,
            complaint: self.complaint,
            records,
            foreign: true,
        }
    }
}
