//! The page of the handbook: what became of every case, as a table of steps and faults.

use super::{
    Row,
    case::{Fault, Situation, situations},
};

/// The page, of the rows of a whole run, or of one and of another one that went again through so many
/// of its cases.
pub fn page(rows: &[Row], again: Option<usize>) -> String {
    let mut page = String::from(HEAD);
    let count = |verdict: &str| rows.iter().filter(|row| row.verdict == verdict).count();
    let bad = rows.iter().filter(|row| !row.violations.is_empty()).count();
    let again = match again {
        Some(count) => format!(
            " ({count} of them in a later run: what was at fault there was mended, or they were added)"
        ),
        None => String::new(),
    };
    page += &format!(
        "{} cases{again}: {} confirmed, {} rolled back, {} refused, {} abandoned, \
         {} stuck; {bad} with a violation.\n\n",
        rows.len(),
        count("confirmed"),
        count("rolled-back"),
        count("refused"),
        count("abandoned"),
        count("stuck"),
    );
    let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    page += &format!("| step | {} |\n", names.join(" | "));
    page += &format!("|---{}|\n", "|---".repeat(names.len()));
    for situation in situations() {
        let cells: Vec<&str> = Fault::ALL
            .iter()
            .map(|fault| cell(rows, situation, *fault))
            .collect();
        let (way, at) = (situation.way.name(), situation.at.word());
        page += &format!("| {way}: {at} | {} |\n", cells.join(" | "));
    }
    page
}

const HEAD: &str = "\
# Every step × every fault

What becomes of a machine when something goes wrong in the middle of an attempt, tried on real machines
(systemd, D-Bus, logind, Nix; see [real-machines.md](real-machines.md)). Each case holds a machine in one step,
does one thing to it, lets it go on, and looks what it comes to. Every case must end

- on the target or on the system it came from: running system, profile and boot default the same (only a machine
  that is *stuck*, which is for a person to look at, may be between the two);
- with exactly one verdict for each attempt in the coordinator's history (a machine that was not ready has
  another turn, and another attempt), and the right one: a bad target is never confirmed, and
  a bus that restarts, a coordinator that is gone or a clock that is wrong never takes a good target back once
  it runs;
- with its hooks paired: each at most once, and after the pre-update hook either the post-update hook alone
  (confirmed) or the rollback hook;
- with its slot taken from the lease to the verdict, and free after it unless the machine is stuck;
- without a dead-man timer left.

The faults: SIGKILL of the agent; SIGSTOP of the agent for two minutes, four times its lease; power cut; restart of
the D-Bus daemon; not a byte left on the disk, or in the boot directory, for 20 seconds; the network cut, or
connections refused by the coordinator's host, for 45 seconds; the agent's clock (libfaketime) a day ahead, or a day
back, for 15 seconds; the step's own work failing, and not ending for two minutes. Machines are held by the scripts
that the step runs, or where it runs none, by stopping the agent at the moment its journal says that it is in the
step.

    cargo run --release -p integration-tests --bin matrix                      # all of it
    cargo run --release -p integration-tests --bin matrix -- --sample 1        # one fault for each step, as CI does
    cargo run --release -p integration-tests --bin matrix -- --only 'switch / judging'
    cargo run --release -p integration-tests --bin matrix -- --page docs/fault-matrix.md

The last writes this page. C: the target, confirmed. B: back on the previous system (rolled back). R: refused,
nothing changed. A: abandoned before the point of no return, and undone. S: stuck. A dash: the fault does not apply
to the step.

";

/// One letter.
fn cell(rows: &[Row], situation: Situation, fault: Fault) -> &'static str {
    let is = |row: &&Row| row.case.situation == situation && row.case.fault == fault;
    let Some(row) = rows.iter().find(is) else {
        return "–";
    };
    if !row.violations.is_empty() {
        return "**!**";
    }
    match row.verdict.as_str() {
        "confirmed" => "C",
        "rolled-back" => "B",
        "refused" => "R",
        "abandoned" => "A",
        "stuck" => "S",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::case::{applies, whole};

    /// The page in the handbook.
    const PAGE: &str = include_str!("../../../docs/fault-matrix.md");

    #[test]
    fn the_page_has_every_case_and_none_with_a_violation() {
        for situation in situations() {
            let begin = format!("| {}: {} |", situation.way.name(), situation.at.word());
            let line = PAGE.lines().find_map(|line| line.strip_prefix(&begin));
            let line = line.unwrap_or_else(|| panic!("the page has no line {begin}"));
            let cells: Vec<&str> = line
                .trim_end_matches('|')
                .split('|')
                .map(str::trim)
                .collect();
            assert_eq!(cells.len(), Fault::ALL.len(), "{begin}");
            for (fault, cell) in Fault::ALL.into_iter().zip(cells) {
                let expected: &[&str] = if applies(situation.at, fault) {
                    &["C", "B", "R", "A", "S"]
                } else {
                    &["–"]
                };
                assert!(expected.contains(&cell), "{begin} {}: {cell}", fault.name());
            }
        }
        assert!(PAGE.contains(&format!("\n{} cases", whole().len())));
    }

    #[test]
    fn the_head_is_that_of_the_program() {
        assert!(PAGE.starts_with(HEAD), "run it again: matrix --page");
    }
}
