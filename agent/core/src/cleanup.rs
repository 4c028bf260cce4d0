//! Cleaning up: which generations may go, by the machine's own rule, and the life of one cleanup.
//!
//! A coordinator says how many generations stay and how young they may be. What the machine needs to
//! go back stays in any case: a coordinator that somebody has taken over must not be able to take that.

use std::{collections::BTreeSet, time::Duration};

use common::{CleanUp, CleanedUp, Generation, StorePath};

use crate::{
    agent::Agent,
    effect::{Before, Effect, Job, MayBegin, Note, Output, Work},
    facts::Facts,
    input::{Answer, Done, Failure},
    moment::Moment,
    reading::line,
    state::Cleaning,
};

/// Most systems remembered as the last that were confirmed; the oldest goes first.
pub const CONFIRMED_MAX: usize = 2;

/// A generation of the system profile and how old it is; `None`: that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// Which.
    pub generation: Generation,
    /// Since when it is there.
    pub age: Option<Duration>,
}

/// Numbers of the generations that may go, oldest first.
///
/// Of a generation stays: one of the newest, a young one, one whose age cannot be told, the current
/// one and the one before it, and every one that leads to what runs, was booted or comes next, or to
/// one of `needed`.
///
/// # Errors
/// Why nothing may go: what the machine runs, has booted or boots next is not known.
pub fn removable(
    generations: &[Aged],
    facts: &Facts,
    cleanup: &CleanUp,
    needed: &[StorePath],
) -> Result<Vec<u64>, Failure> {
    let (Some(running), Some(booted), Some(profile), Some(next), 1..) = (
        &facts.running,
        &facts.booted,
        &facts.profile,
        facts.boot_default(),
        facts.generation,
    ) else {
        let why = "what runs, was booted and comes next is not known";
        return Err(Failure::Failed(why.to_owned()));
    };
    let mut paths: BTreeSet<&StorePath> = needed.iter().collect();
    paths.extend([running, booted, profile, next]);
    let mut sorted: Vec<&Aged> = generations.iter().collect();
    sorted.sort_by_key(|aged| aged.generation.number);
    let numbers = || sorted.iter().map(|aged| aged.generation.number);
    let newest: BTreeSet<u64> = numbers().rev().take(cleanup.count()).collect();
    let before = numbers().rfind(|number| *number < facts.generation);
    let goes = |aged: &&&Aged| {
        let number = aged.generation.number;
        let is_old = aged.age.is_some_and(|age| age >= cleanup.age());
        is_old
            && !newest.contains(&number)
            && number != facts.generation
            && before != Some(number)
            && !paths.contains(&aged.generation.path)
    };
    let gone = sorted.iter().filter(goes);
    Ok(gone.map(|aged| aged.generation.number).collect())
}

impl Agent {
    /// The coordinator asks for a cleanup. The same one again, one during an attempt, and one beside
    /// another are passed over: it asks until it has an answer.
    pub(crate) fn on_clean_up(
        &mut self,
        now: Moment,
        request: u64,
        cleanup: CleanUp,
        out: &mut Output,
    ) {
        if self.durable.attempt.is_some() {
            return;
        }
        self.poll_later(now);
        if self.durable.cleaning.is_some() || self.durable.cleaned_up.request == request {
            return;
        }
        let Some(facts) = &self.facts else {
            return;
        };
        let before = Before {
            generations: facts.generations.iter().map(|g| g.number).collect(),
            store_free_bytes: facts.store_free_bytes,
        };
        let work = self.work_of_cleanup(cleanup, None);
        let job = self.new_job(self.limits.cleanup_timeout, work);
        self.durable.cleaning = Some(Cleaning {
            request,
            cleanup,
            before,
            job: job.step,
        });
        self.cleaning = Some(self.running(now, &job));
        out.persist = true;
        out.effects.push(Effect::Begin(job));
    }

    fn work_of_cleanup(&self, cleanup: CleanUp, begun: Option<Before>) -> Work {
        Work::CleanUp {
            cleanup,
            needed: self.needed_to_go_back(),
            begun,
        }
    }

    /// What must stay beside what is found on the machine.
    fn needed_to_go_back(&self) -> Vec<StorePath> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): only what is measured counts.
        if self.has_bug(crate::bug::Bug::CleanUpTakesWayBack) {
            return Vec::new();
        }
        self.durable.needed_to_go_back().into_iter().collect()
    }

    /// A cleanup that an earlier life of the agent began: its unit is waited for. What was not done
    /// is done, and what was done is not there to be done twice.
    pub(crate) fn cleanup_after_restart(&mut self, now: Moment, out: &mut Output) {
        let Some(cleaning) = self.durable.cleaning.clone() else {
            return;
        };
        let job = Job {
            step: cleaning.job,
            within: self.limits.cleanup_timeout,
            may_begin: MayBegin::Always,
            work: self.work_of_cleanup(cleaning.cleanup, Some(cleaning.before)),
        };
        self.cleaning = Some(self.running(now, &job));
        out.effects.push(Effect::Attach(job));
    }

    /// The cleanup ended. Its answer is kept until the next one's.
    pub(crate) fn cleaned_up(&mut self, now: Moment, answer: Answer, out: &mut Output) {
        self.cleaning = None;
        let Some(cleaning) = self.durable.cleaning.take() else {
            return;
        };
        let request = cleaning.request;
        self.durable.cleaned_up = match answer.result {
            Ok(Done::CleanedUp {
                removed,
                freed_bytes,
                failure,
                facts,
            }) => {
                self.on_measured(now, facts);
                CleanedUp {
                    request,
                    removed,
                    freed_bytes,
                    failure: failure.map(|why| line(&why)),
                }
            }
            Ok(_) => failed(request, &Failure::Unfitting),
            Err(failure) => failed(request, &failure),
        };
        out.persist = true;
        let done = self.durable.cleaned_up.clone();
        out.effects.push(Effect::Note(Note::CleanedUp(done)));
        self.poll_now(now);
    }
}

fn failed(request: u64, failure: &Failure) -> CleanedUp {
    CleanedUp {
        request,
        failure: Some(line(&failure.to_string())),
        ..CleanedUp::default()
    }
}
