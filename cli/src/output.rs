//! The only file that prints. Results go to standard output, everything else to standard error.
//!
//! Views hand over plain text. Here it loses what could move a terminal, gets its colours (they
//! hang on the mark in front of a word, so nothing is told by colour alone), and falls back to
//! ASCII where the locale is not UTF-8.

use std::{
    env,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use common::text::tame;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lab_proto::operator::Done;
use serde::Serialize;

use crate::{
    args::Format,
    error::{Exit, LabError},
    view::Look,
};

/// The marks that stand before a word, their colour, and what replaces them outside UTF-8.
const MARKS: [(char, Option<AnsiColor>, &str); 9] = [
    ('✔', Some(AnsiColor::Green), "+"),
    ('✖', Some(AnsiColor::Red), "x"),
    ('⚠', Some(AnsiColor::Yellow), "!"),
    ('▶', Some(AnsiColor::Cyan), ">"),
    ('○', Some(AnsiColor::BrightBlack), "o"),
    ('…', None, "..."),
    ('→', None, "->"),
    ('·', None, "-"),
    ('─', None, "-"),
];

/// Where results, notes, progress and questions go.
#[derive(Debug)]
pub struct Output {
    format: Format,
    yes: bool,
    look: Look,
    unicode: bool,
}

impl Output {
    /// For this process.
    pub fn new(format: Format, yes: bool) -> Self {
        Self {
            format,
            yes,
            look: Look::of_terminal(),
            unicode: unicode(|name| env::var(name).ok()),
        }
    }

    /// How views should be laid out.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Prints the one result: `value` as it is for programs, or what `view` makes of it.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        view: impl FnOnce(&Look) -> String,
    ) -> Result<(), LabError> {
        match self.format {
            Format::Human => self.text(&view(&self.look)),
            Format::Json => {
                let json = serde_json::to_string_pretty(value).map_err(|error| {
                    LabError::new(Exit::Bug, format!("failed to write JSON: {error}"))
                })?;
                written(writeln!(io::stdout(), "{json}"))
            }
        }
    }

    /// Prints text to standard output, whatever the format: for what is not a result of the fleet.
    pub fn text(&self, text: &str) -> Result<(), LabError> {
        written(write!(anstream::stdout(), "{}", self.dress(text)))
    }

    /// Prints bytes to standard output as they are: completions and manual pages.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), LabError> {
        written(io::stdout().write_all(bytes))
    }

    /// A line for the person, beside the result.
    pub fn note(&self, text: &str) {
        // Nothing can be done when standard error is gone.
        writeln!(anstream::stderr(), "{}", self.dress(text).trim_end()).ok();
    }

    /// The end of a command that failed.
    pub fn error(&self, error: &LabError) {
        let text = self.dress(&error.to_string());
        let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let text = text.replacen("error:", &format!("{red}error:{red:#}"), 1);
        write!(anstream::stderr(), "{text}").ok();
    }

    /// Prints what the coordinator says it did.
    pub fn done(&self, done: &Done) -> Result<Exit, LabError> {
        self.result(done, |_| format!("{}\n", done.text))?;
        Ok(Exit::Yes)
    }

    /// Whether questions are asked: somebody is there, and did not say yes to everything.
    pub fn asks(&self) -> bool {
        self.can_ask() && !self.yes
    }

    fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks before something that can be asked about. Without a terminal, and with `--yes`, the
    /// answer is yes.
    pub fn confirm(&self, question: &str) -> Result<(), LabError> {
        if !self.asks() {
            return Ok(());
        }
        write!(anstream::stderr(), "{} [y/N] ", self.dress(question)).ok();
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok();
        if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
            Ok(())
        } else {
            Err(LabError::new(Exit::No, "nothing was done: not confirmed"))
        }
    }

    /// As [`Output::confirm`], for what cannot be taken back: without a terminal only with `--yes`.
    pub fn confirm_destructive(&self, question: &str) -> Result<(), LabError> {
        if !self.yes && !self.can_ask() {
            return Err(
                LabError::usage("this needs a confirmation, and there is no terminal")
                    .hint("repeat it with --yes"),
            );
        }
        self.confirm(question)
    }

    /// Progress that is redrawn on a terminal; elsewhere [`Progress::say`] appends lines.
    pub fn progress(&self) -> Progress<'_> {
        let redrawn = self.format == Format::Human
            && io::stderr().is_terminal()
            && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bar = redrawn.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Progress { output: self, bar }
    }

    /// Makes a view's text fit to be shown.
    fn dress(&self, text: &str) -> String {
        let harmless = tame(text, usize::MAX);
        if self.unicode {
            paint(&harmless)
        } else {
            ascii(&harmless)
        }
    }
}

/// Something that takes a while.
#[derive(Debug)]
pub struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
}

impl Progress<'_> {
    /// Replaces what is drawn; nothing where nothing is drawn.
    pub fn draw(&self, text: &str) {
        if let Some(bar) = &self.bar {
            let rows = self.output.look.height.saturating_sub(2).max(4);
            let shown = fit(text.trim_end(), rows);
            let dressed = self.output.dress(&shown);
            let plain = AutoStream::choice(&io::stderr()) == ColorChoice::Never;
            bar.set_message(if plain {
                strip_str(&dressed).to_string()
            } else {
                dressed
            });
        }
    }

    /// Says that something happened: above what is drawn, or as a line of its own.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(line)),
            None => self.output.note(line),
        }
    }

    /// Whether [`Progress::draw`] shows anything.
    pub fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The first lines, and how many more there are.
fn fit(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= rows {
        return text.to_owned();
    }
    let shown = lines[..rows - 1].join("\n");
    format!("{shown}\n… and {} more lines", lines.len() - rows + 1)
}

/// Colours the marks and the words right behind them.
fn paint(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(|c| {
        MARKS
            .iter()
            .any(|(mark, colour, _)| *mark == c && colour.is_some())
    }) {
        let (before, marked) = rest.split_at(at);
        let colour = MARKS.iter().find(|(mark, ..)| marked.starts_with(*mark));
        let style = Style::new().fg_color(colour.and_then(|found| found.1).map(Into::into));
        // The mark, one space, one word.
        let end = marked
            .char_indices()
            .skip(2)
            .find(|(_, c)| c.is_whitespace())
            .map_or(marked.len(), |(at, _)| at);
        let (word, after) = marked.split_at(end);
        painted.push_str(&format!("{before}{style}{word}{style:#}"));
        rest = after;
    }
    painted + rest
}

fn ascii(text: &str) -> String {
    MARKS
        .iter()
        .fold(text.to_owned(), |text, (mark, _, plain)| {
            text.replace(*mark, plain)
        })
}

/// Whether the locale speaks UTF-8: the first of the three variables that is set decides.
fn unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| variable(name))
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// A reader that went away (`| head`) is no error.
fn written(result: io::Result<()>) -> Result<(), LabError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(LabError::usage(format!(
            "failed to write the result: {error}"
        ))),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_hangs_on_marks_only() {
        let painted = paint("dev  ✔ updated   3/3\n");
        assert_eq!(painted, "dev  \u{1b}[32m✔ updated\u{1b}[0m   3/3\n");
        assert_eq!(strip_str(&painted).to_string(), "dev  ✔ updated   3/3\n");
        assert_eq!(paint("plain"), "plain");
        assert_eq!(paint("✖"), "\u{1b}[31m✖\u{1b}[0m");
    }

    #[test]
    fn a_locale_without_utf_8_gets_ascii() {
        let locale = |pairs: &'static [(&str, &str)]| {
            unicode(|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(locale(&[("LANG", "nb_NO.UTF-8")]));
        assert!(locale(&[("LC_ALL", ""), ("LANG", "C.utf8")]));
        assert!(!locale(&[("LC_ALL", "C"), ("LANG", "nb_NO.UTF-8")]));
        assert!(!locale(&[]));
        assert_eq!(ascii("✔ a → b …"), "+ a -> b ...");
    }

    #[test]
    fn a_long_drawing_is_cut_with_a_count() {
        assert_eq!(fit("a\nb\nc", 3), "a\nb\nc");
        assert_eq!(fit("a\nb\nc\nd", 3), "a\nb\n… and 2 more lines");
    }
}
