//! What each command does: ask the coordinator, show the answer, say how it ended.

pub mod config;
pub mod emergency;
pub mod fleet;
pub mod machines;
pub mod prepare;
pub mod rollback;
pub mod schedule;
pub mod shell;
pub mod targets;
pub mod traffic;
pub mod trust;
pub mod update;
pub mod verify;
pub mod wait;

use crate::{
    args::{Command, Global, update::Update},
    client::{self, Client, Settings},
    error::{Exit, LabError},
    output::Output,
};

/// What every command works with.
#[derive(Debug)]
pub struct Context {
    /// The connection's settings as they were typed.
    pub global: Global,
    /// Where everything is shown.
    pub output: Output,
}

impl Context {
    /// Connects to the coordinator.
    pub async fn open(&self) -> Result<Client, LabError> {
        let settings = Settings::of(&self.global)?;
        client::open(&settings, &self.output).await
    }
}

/// Runs one command.
pub async fn run(context: &Context, command: Command) -> Result<Exit, LabError> {
    match command {
        Command::Update(verb) => run_update(context, verb).await,
        Command::HealthCheck(args) => verify::health_check(context, &args).await,
        Command::UpdateHistory(args) => fleet::history(context, &args).await,
        Command::Notify(args) => fleet::notify(context, args).await,
        Command::UpdateConfig(verb) => config::run(context, verb).await,
        Command::Schedule(verb) => schedule::run(context, verb).await,
        Command::Targets(verb) => targets::run(context, verb).await,
        Command::Traffic(args) => traffic::run(context, args).await,
        Command::Machines(args) => machines::run(context, args).await,
        Command::Why(args) => fleet::why(context, &args).await,
        Command::EmergencyStop(args) => emergency::stop(context, &args).await,
        Command::Resume(args) => emergency::resume(context, args).await,
        Command::Token(verb) => trust::token(context, verb).await,
        Command::Identity(verb) => trust::identity(context, verb).await,
        Command::Audit(args) => trust::audit(context, &args).await,
        Command::Completions(args) => shell::completions(context, &args),
        Command::Man(args) => shell::man(context, &args),
        Command::Help(args) => shell::help(context, &args),
    }
}

async fn run_update(context: &Context, verb: Update) -> Result<Exit, LabError> {
    match verb {
        Update::Plan(args) => update::plan(context, &args).await,
        Update::Prepare(args) => prepare::run(context, &args).await,
        Update::Execute(args) => update::execute(context, &args).await,
        Update::Verify(args) => verify::run(context, &args).await,
        Update::Rollback(args) => rollback::run(context, &args).await,
        Update::Status(args) => update::status(context, &args).await,
        Update::Watch(args) => update::watch(context, &args).await,
        Update::Promote(args) => update::promote(context, args).await,
        Update::Approve(args) => update::approve(context, args, false).await,
        Update::Reject(args) => update::approve(context, args, true).await,
        Update::Pause(args) => update::pause(context, args).await,
        Update::Resume(args) => update::resume(context, args).await,
        Update::Abort(args) => update::abort(context, args).await,
    }
}
