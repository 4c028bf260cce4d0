//! Answers, read: each of the kind that its work gives, and every word in it tamed and bounded.

use common::{Staged, report::CHANGES_MAX, text};

use crate::{
    input::{Done, Failure, HookEnd, Judgement},
    state::{BASELINE_UNITS_MAX, Baseline, HookState},
};

/// Most reasons for a reboot that are kept and reported.
const REBOOT_REASONS_MAX: usize = 16;

/// Most findings of a judgement that are told; the first few say it.
const FINDINGS_MAX: usize = 8;

/// Foreign text as one bounded line.
pub(crate) fn line(foreign: &str) -> String {
    text::tame_line(foreign, text::DETAIL_MAX)
}

/// What became of a hook, and what it said when it did not do its work.
pub(crate) fn hook_end(result: Result<Done, Failure>) -> (HookState, String) {
    match result {
        Ok(Done::Hook(HookEnd::NotConfigured | HookEnd::Succeeded)) => {
            (HookState::Succeeded, String::new())
        }
        Ok(Done::Hook(HookEnd::Failed { status })) => (HookState::Failed, line(&status)),
        Ok(_) => (HookState::Unknown, words(&Failure::Unfitting)),
        Err(failure @ Failure::TooLate) => (HookState::NotBegun, words(&failure)),
        Err(
            failure @ (Failure::TimedOut
            | Failure::Failed(_)
            | Failure::NotAllowed(_)
            | Failure::NotReady(_)
            | Failure::Elsewhere(_)
            | Failure::Lost
            | Failure::Unfitting),
        ) => (HookState::Unknown, words(&failure)),
    }
}

/// Whether the dead-man timer runs.
pub(crate) fn armed(result: Result<Done, Failure>) -> Result<(), Failure> {
    let Done::Armed = result? else {
        return Err(Failure::Unfitting);
    };
    Ok(())
}

/// The judgement in an answer.
pub(crate) fn judgement(result: Result<Done, Failure>) -> Result<Judgement, Failure> {
    let Done::Judged(judgement) = result? else {
        return Err(Failure::Unfitting);
    };
    Ok(judgement)
}

/// A failure in words.
pub(crate) fn words(failure: &Failure) -> String {
    line(&failure.to_string())
}

/// Findings as one line.
pub(crate) fn listed(findings: &[String]) -> String {
    match findings {
        [] => "no finding was given".to_owned(),
        [_, ..] => line(
            &findings
                .iter()
                .take(FINDINGS_MAX)
                .cloned()
                .collect::<Vec<_>>()
                .join("; "),
        ),
    }
}

/// The baseline, bounded.
pub(crate) fn bounded(mut baseline: Baseline) -> Baseline {
    for names in [&mut baseline.failed_units, &mut baseline.failed_checks] {
        names.truncate(BASELINE_UNITS_MAX);
        for name in names {
            *name = line(name);
        }
    }
    baseline
}

/// The staged target in an answer, its words tamed.
pub(crate) fn staged_of(result: Result<Done, Failure>) -> Result<Staged, Failure> {
    let Done::Staged(mut staged) = result? else {
        return Err(Failure::Unfitting);
    };
    staged.reboot_reasons.truncate(REBOOT_REASONS_MAX);
    for reason in &mut staged.reboot_reasons {
        *reason = line(reason);
    }
    if let Some(changes) = &mut staged.changes {
        changes.packages.truncate(CHANGES_MAX);
    }
    Ok(staged)
}
