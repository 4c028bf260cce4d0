//! `fleet`: real machines on this host, for tests and for trying things out. Needs root.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use common::{error_chain::Chain, id::MachineName};
use integration_tests::fleet::{
    Damage, Failure, Fleet, FleetError, FleetOptions, Part, SystemSpec, host,
};
use serde_json::{Value, json};

/// Real machines on this host: systemd, D-Bus and Nix in containers of their own, on a network of
/// their own, with a coordinator's host called `control` and a signed binary cache.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The fleet's name; fleets of different names run side by side.
    #[arg(long, global = true, default_value = "fleet", env = "LAB_FLEET")]
    fleet: String,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a fleet; it runs until `down`.
    Up(Up),
    /// How the machines are.
    Status,
    /// Run a command as root inside a machine; its exit status is ours.
    Exec {
        machine: MachineName,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Reboot a machine and wait until it is up.
    Reboot { machine: MachineName },
    /// End every process of a machine at once. Unsynced writes are kept: the page cache is the host's.
    PowerCut { machine: MachineName },
    /// Start a machine that is off, and wait until it is up.
    PowerOn { machine: MachineName },
    /// Take a machine off the network.
    Partition { machine: MachineName },
    /// Undo `partition` and `break`, and start the machine when it is off.
    Heal { machine: MachineName },
    /// Break something in a running machine.
    Break {
        machine: MachineName,
        damage: Damage,
    },
    /// Build a system for a machine and publish it to the fleet's cache; prints its store path.
    Publish(Publish),
    /// End a fleet and remove everything that it made.
    Down,
    /// What this host lacks for a fleet, if anything (exit status 1 when it lacks something).
    Host,
    #[command(flatten)]
    Part(Part),
}

#[derive(Debug, Args)]
struct Up {
    /// How many machines, called machine-1, machine-2…
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=100))]
    machines: u8,
    /// The machines' names, instead of a number.
    #[arg(long, value_delimiter = ',', conflicts_with = "machines")]
    names: Vec<MachineName>,
}

#[derive(Debug, Args)]
struct Publish {
    machine: MachineName,
    /// The system's version.
    #[arg(long)]
    version: String,
    /// The kernel's version; another one than the running system's needs a reboot.
    #[arg(long)]
    kernel: Option<String>,
    /// What is wrong with the system.
    #[arg(long, value_enum, default_value = "none")]
    failure: Failure,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(&cli) {
        Ok(code) => code,
        Err(error) => {
            // There is nobody left to tell when standard error is gone.
            writeln!(io::stderr(), "fleet: {}", Chain(&error)).ok();
            ExitCode::FAILURE
        }
    }
}

fn act(cli: &Cli) -> Result<ExitCode, FleetError> {
    let open = || Fleet::open(&cli.fleet);
    let done = |what: &str, machine: &MachineName| {
        cli.print(
            &json!({ "machine": machine, "done": what }),
            &format!("{machine}: {what}"),
        );
    };
    match &cli.command {
        Command::Up(up) => cli.up(up)?,
        Command::Status => cli.status(&open()?)?,
        Command::Exec { machine, words } => return cli.exec(&open()?, machine, words),
        Command::Reboot { machine } => {
            open()?.reboot(machine)?;
            done("rebooted", machine);
        }
        Command::PowerCut { machine } => {
            open()?.power_cut(machine)?;
            done("power cut", machine);
        }
        Command::PowerOn { machine } => {
            open()?.power_on(machine)?;
            done("on", machine);
        }
        Command::Partition { machine } => {
            open()?.partition(machine)?;
            done("off the network", machine);
        }
        Command::Heal { machine } => {
            open()?.heal(machine)?;
            done("healed", machine);
        }
        Command::Break { machine, damage } => {
            open()?.damage(machine, *damage)?;
            done("broken", machine);
        }
        Command::Publish(publish) => cli.publish(&open()?, publish)?,
        Command::Down => {
            open()?.down()?;
            cli.print(&json!({ "fleet": cli.fleet, "done": "down" }), "down");
        }
        Command::Host => return Ok(cli.host()),
        Command::Part(part) => part.play()?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Cli {
    fn up(&self, up: &Up) -> Result<(), FleetError> {
        let mut machines = up.names.clone();
        if machines.is_empty() {
            let names = (1..=up.machines).map(|number| format!("machine-{number}").parse());
            machines = names.collect::<Result<_, _>>()?;
        }
        let program = std::env::current_exe().map_err(|source| FleetError::File {
            what: "find",
            path: "the fleet program".into(),
            source,
        })?;
        let options = FleetOptions {
            name: self.fleet.clone(),
            machines,
            program,
            ends_with_us: false,
            disk: None,
            files: None,
            memory: None,
        };
        let fleet = Fleet::up(&options, &|step| {
            writeln!(io::stderr(), "{step}").ok();
        })?;
        self.status(&fleet)
    }

    fn status(&self, fleet: &Fleet) -> Result<(), FleetError> {
        let machines = fleet.status()?;
        let mut text = String::new();
        for machine in &machines {
            text += &format!(
                "{:<16} {:<12} {:<8} boots {}{}{}\n",
                machine.name,
                machine.address,
                format!("{:?}", machine.power).to_lowercase(),
                machine.boots,
                if machine.link_up {
                    ""
                } else {
                    ", off the network"
                },
                if machine.frozen { ", frozen" } else { "" },
            );
        }
        self.print(
            &json!({ "fleet": self.fleet, "machines": machines }),
            text.trim_end(),
        );
        Ok(())
    }

    fn exec(
        &self,
        fleet: &Fleet,
        machine: &MachineName,
        words: &[String],
    ) -> Result<ExitCode, FleetError> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if !self.json {
            let mut command = fleet.command(machine, &words)?;
            let status = command.status().map_err(|source| FleetError::Start {
                program: "nsenter".to_owned(),
                source,
            })?;
            return Ok(exit_code(status.code()));
        }
        let finished = fleet.exec(machine, &words)?;
        let answer = json!({
            "machine": machine,
            "status": finished.code(),
            "stdout": finished.stdout,
            "stderr": finished.stderr,
        });
        self.print(&answer, "");
        Ok(exit_code(finished.status.code()))
    }

    fn publish(&self, fleet: &Fleet, publish: &Publish) -> Result<(), FleetError> {
        let mut system =
            SystemSpec::new(&publish.machine, &publish.version).failing(publish.failure);
        if let Some(kernel) = &publish.kernel {
            system = system.kernel(kernel);
        }
        for path in fleet.publish(&[system])? {
            self.print(
                &json!({ "machine": publish.machine, "path": path }),
                path.as_str(),
            );
        }
        Ok(())
    }

    fn host(&self) -> ExitCode {
        let missing = host::missing();
        let text = match &missing {
            Some(missing) => missing.to_string(),
            None => "this host can run real machines".to_owned(),
        };
        self.print(
            &json!({ "possible": missing.is_none(), "text": text }),
            &text,
        );
        if missing.is_none() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Prints one answer. A reader that went away is no error.
    fn print(&self, json: &Value, text: &str) {
        let mut out = io::stdout();
        if self.json {
            writeln!(out, "{json}").ok();
        } else {
            writeln!(out, "{text}").ok();
        }
    }
}

/// The exit status of a program as ours; 255 when a signal ended it.
fn exit_code(code: Option<i32>) -> ExitCode {
    ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
    )
}
