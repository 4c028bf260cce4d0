//! `bench`: measures what the project promises to be fast.

use clap::{Parser, ValueEnum};
use integration_tests::bench::{decide, figures::Figures};

/// Measures what the project promises to be fast.
#[derive(Parser)]
struct Args {
    /// What to measure.
    what: What,
    /// Machines of the fleet.
    #[arg(long, default_value_t = 10_000)]
    machines: usize,
    /// Groups they are spread over.
    #[arg(long, default_value_t = 10)]
    groups: usize,
    /// Machines that may be away at once.
    #[arg(long, default_value_t = 100)]
    away: usize,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The core's decisions.
    Decide,
}

#[allow(clippy::print_stdout, reason = "this program's output is its purpose")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let size = decide::Size {
        machines: args.machines,
        groups: args.groups,
        away: args.away,
    };
    let all: Vec<Figures> = match args.what {
        What::Decide => vec![decide::run(size)?],
    };
    if args.json {
        let all: Vec<_> = all.iter().map(Figures::json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        all.iter().for_each(|figures| print!("{}", figures.text()));
    }
    Ok(())
}
