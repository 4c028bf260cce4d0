//! Text that came from outside: bounded, and without characters that could move a terminal. And bytes as
//! text.

/// Longest detail of one check, in bytes.
pub const DETAIL_MAX: usize = 512;

/// Longest reason, in bytes.
pub const REASON_MAX: usize = 1024;

/// Longest output kept of one step, in bytes.
pub const OUTPUT_MAX: usize = 4096;

/// The text with control and direction-changing characters replaced by a space (line feeds and
/// tabs stay) and, when it is longer than `max` bytes, only its end, behind a mark.
pub fn tame(text: &str, max: usize) -> String {
    let tamed: String = text
        .chars()
        .map(|c| if is_wild(c) { ' ' } else { c })
        .collect();
    if tamed.len() <= max {
        return tamed;
    }
    let mut start = tamed.len() - max;
    while !tamed.is_char_boundary(start) {
        start += 1;
    }
    format!("[{start} bytes left out]{}", &tamed[start..])
}

/// As [`tame`], on one line.
pub fn tame_line(text: &str, max: usize) -> String {
    tame(text.trim(), max).replace(['\n', '\t'], " ")
}

/// The last whole lines that fit into `max` bytes together, as one line; of a last line that alone
/// is longer, the end.
pub fn last_lines(text: &str, max: usize) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut left = max;
    for line in text.trim_end().lines().rev() {
        let needed = line.len() + usize::from(!kept.is_empty());
        if needed > left && !kept.is_empty() {
            break;
        }
        left = left.saturating_sub(needed);
        kept.push(line);
    }
    kept.reverse();
    tame_line(&kept.join(" "), max)
}

/// Control characters other than line feed and tab, and the characters of Unicode that change the
/// direction or the visibility of what follows them (Unicode TR 9 and TR 36).
fn is_wild(c: char) -> bool {
    let harmless = c == '\n' || c == '\t';
    (c.is_control() && !harmless)
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Bytes as hexadecimal digits, two for each, without separators.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_lose_their_power() {
        assert_eq!(tame("a\u{1b}[2Jb\rc\u{202e}d\0e", 100), "a [2Jb c d e");
        assert_eq!(tame_line(" a\nb\t", 100), "a b");
    }

    #[test]
    fn whole_lines_are_kept_where_they_fit() {
        assert_eq!(last_lines("one\ntwo\n", 100), "one two");
        assert_eq!(last_lines("one\ntwo\nthree\n", 9), "two three");
        assert_eq!(last_lines("one\ntwo\nthree\n", 8), "three");
        assert_eq!(last_lines("é\né\n", 3), "é");
        assert_eq!(last_lines("abcdef", 3), "[3 bytes left out]def");
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn the_end_is_kept() {
        let long = format!("{}é end", "x".repeat(5000));
        let kept = tame(&long, 10);
        assert!(kept.ends_with("é end"), "{kept}");
        assert!(kept.starts_with("[4996 bytes left out]"), "{kept}");
    }
}
