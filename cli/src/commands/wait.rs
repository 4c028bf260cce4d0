//! Waiting for a rollout: shown as it goes, resumable, never what keeps it going.

use std::time::Duration;

use lab_proto::operator::{Rollout, StatusRequest};
use serde::Serialize;
use tokio::{signal, time::sleep};

use super::Context;
use crate::{
    args::parse::Span,
    client::{Client, ask},
    error::{Exit, LabError},
    output::Progress,
    view::{
        progress::{Ending, news, summary, verify_will_fail},
        status::one_rollout,
    },
};

/// First and longest pause before a lost connection is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is printed when the waiting ends, for programs.
#[derive(Serialize)]
struct Outcome<'a> {
    /// A word of [`Ending`], or detached, timeout, interrupted.
    result: &'a str,
    id: &'a str,
    rollout: Option<&'a Rollout>,
}

/// How waiting for anything ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// What was waited for is there.
    Ended(T),
    /// It is not.
    Early(Early),
}

/// Why waiting ended before what was waited for was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// The time was up.
    Late,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Early {
    /// The exit status that scripts see.
    pub fn exit(self) -> Exit {
        match self {
            Self::Late => Exit::Timeout,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// What a person is told.
    pub fn why(self) -> &'static str {
        match self {
            Self::Late => "the time to wait is up",
            Self::Interrupted => "interrupted",
        }
    }

    /// The word in JSON.
    fn word(self) -> &'static str {
        match self {
            Self::Late => "timeout",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Waits for `end`, a time limit, or Ctrl-C.
pub async fn bounded<T>(
    end: impl Future<Output = Result<T, LabError>>,
    limit: Option<Span>,
) -> Result<Waited<T>, LabError> {
    let late = async {
        match limit {
            Some(limit) => sleep(limit.0).await,
            None => std::future::pending().await,
        }
    };
    // Where signals cannot be had, Ctrl-C ends the process the plain way.
    let interrupted = async {
        if signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = end => ended.map(Waited::Ended),
        () = late => Ok(Waited::Early(Early::Late)),
        () = interrupted => Ok(Waited::Early(Early::Interrupted)),
    }
}

/// Says how a rollout that was begun can be come back to.
pub fn detached(context: &Context, id: &str) -> Result<Exit, LabError> {
    let outcome = Outcome {
        result: "detached",
        id,
        rollout: None,
    };
    context.output.result(&outcome, |_| {
        format!("rollout {id} goes on; come back to it: lab update watch {id}\n")
    })?;
    Ok(Exit::Yes)
}

/// Follows a rollout until it ends, the time is up, or somebody presses Ctrl-C.
pub async fn for_rollout(
    context: &Context,
    client: &mut Client,
    id: &str,
    limit: Option<Span>,
) -> Result<Exit, LabError> {
    let progress = context.output.progress();
    let waited = bounded(follow(context, client, id, &progress), limit).await;
    drop(progress);
    let early = match waited? {
        Waited::Ended((ending, rollout)) => return ended(context, &ending, &rollout),
        Waited::Early(early) => early,
    };
    context.output.note(&format!(
        "{}; rollout {id} goes on\n  come back to it: lab update watch {id}\n  \
         stop it: lab update pause {id}, lab update abort {id}",
        early.why()
    ));
    let outcome = Outcome {
        result: early.word(),
        id,
        rollout: None,
    };
    context.output.result(&outcome, |_| String::new())?;
    Ok(early.exit())
}

fn ended(context: &Context, ending: &Ending, rollout: &Rollout) -> Result<Exit, LabError> {
    let outcome = Outcome {
        result: ending.word(),
        id: &rollout.id,
        rollout: Some(rollout),
    };
    context
        .output
        .result(&outcome, |look| summary(ending, rollout, look))?;
    if *ending == Ending::Finished
        && let Some(note) = verify_will_fail(rollout)
    {
        context.output.note(&note);
    }
    Ok(ending.exit())
}

/// Reads the stream of changes, and opens it again whenever it is lost.
async fn follow(
    context: &Context,
    client: &mut Client,
    id: &str,
    progress: &Progress<'_>,
) -> Result<(Ending, Rollout), LabError> {
    let mut shown: Option<Rollout> = None;
    let mut pause = BACK_OFF.0;
    loop {
        let lost = match ask(client.watch_status(StatusRequest::default())).await {
            Err(error) => error,
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(status)) => {
                        pause = BACK_OFF.0;
                        let find = |found: &dyn Fn(&Rollout) -> bool| {
                            status.rollouts.iter().find(|r| found(r)).cloned()
                        };
                        let rollout = match find(&|rollout| rollout.id == id) {
                            Some(rollout) => rollout,
                            None => ended_long_ago(client, id).await?,
                        };
                        let rollback = find(&|other| other.undoes == id)
                            .filter(|_| rollout.state == "aborted");
                        let ending = match &rollback {
                            Some(rollback) => Ending::of_undone(rollback),
                            None => Ending::of(&rollout),
                        };
                        let now = rollback.as_ref().unwrap_or(&rollout);
                        let before = shown.as_ref().filter(|shown| shown.id == now.id);
                        show(context, progress, before, now);
                        if let Some(ending) = ending {
                            return Ok((ending, rollout));
                        }
                        shown = Some(rollback.unwrap_or(rollout));
                    }
                    Ok(None) => {
                        break LabError::new(Exit::Unreachable, "the coordinator ended the stream");
                    }
                    Err(status) => break LabError::from_status(&status),
                }
            },
        };
        if !lost.is_passing() {
            return Err(lost);
        }
        progress.say(&format!(
            "connection lost ({}); the rollout goes on, trying again in {} s",
            lost.what,
            pause.as_secs()
        ));
        sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

/// A rollout that newer ones pushed out of the short status.
async fn ended_long_ago(client: &mut Client, id: &str) -> Result<Rollout, LabError> {
    let all = StatusRequest {
        all: true,
        ..StatusRequest::default()
    };
    let status = ask(client.get_status(all)).await?;
    let found = status.rollouts.into_iter().find(|rollout| rollout.id == id);
    found.ok_or_else(|| {
        LabError::new(Exit::NotFound, format!("there is no rollout {id}"))
            .hint("see what there is: lab update status --all")
    })
}

fn show(context: &Context, progress: &Progress<'_>, before: Option<&Rollout>, now: &Rollout) {
    let look = context.output.look().refreshed();
    if progress.is_drawn() {
        progress.draw(&one_rollout(now, &look));
    } else {
        let time = look.stamp(&look.now.to_string());
        for line in news(before, now) {
            progress.say(&format!("{time}  {line}"));
        }
    }
}
