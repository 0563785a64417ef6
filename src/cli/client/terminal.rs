//! What a person sees and is asked.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::remote::Failure;

/// Prints text. A reader that has gone away wants no more of it.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

/// Prints JSON.
pub(super) fn say_json(value: &Value) {
    say(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

/// Says what went wrong.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "node: {text}");
}

/// Empties the screen, where there is one.
pub(super) fn clear() {
    if io::stdout().is_terminal() {
        let _ = io::stdout().lock().write_all(b"\x1b[2J\x1b[H");
    }
}

/// Asks before something that cannot be taken back.
pub(in crate::cli) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    let asked = |question: &str| {
        let mut out = io::stderr().lock();
        write!(out, "{question} [y/N] ").and_then(|()| out.flush())?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(answer)
    };
    consent(question, yes, io::stdin().is_terminal(), asked)
}

/// Nobody there to ask is a no: a script that means it says so.
fn consent(
    question: &str,
    yes: bool,
    somebody: bool,
    ask: impl FnOnce(&str) -> io::Result<String>,
) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !somebody {
        return Err(Failure::Usage(format!(
            "{question} There is no terminal to ask at, so nothing was done; say --yes to do it"
        )));
    }
    match ask(question) {
        Ok(answer) if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) => Ok(()),
        Ok(_) => Err(Failure::Refused("nothing was done".into())),
        Err(error) => Err(Failure::Refused(format!("nothing was done: {error}"))),
    }
}

/// Columns as wide as what stands in them, two blanks apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_without_a_clear_yes() {
        let question = "Fail over?";
        let never = |_: &str| -> io::Result<String> { panic!("nobody is to be asked") };
        assert_eq!(consent(question, true, false, never), Ok(()));
        let silent = consent(question, false, false, never).unwrap_err();
        assert!(silent.to_string().contains("--yes"), "{silent}");
        assert_eq!(silent.exit_code(), 2);
        for (answer, agreed) in [("y\n", true), ("YES\n", true), ("\n", false), ("no\n", false)] {
            let answered = consent(question, false, true, |_| Ok(answer.to_owned()));
            assert_eq!(answered.is_ok(), agreed, "{answer:?}");
        }
        let broken = consent(question, false, true, |_| Err(io::Error::other("closed")));
        assert!(broken.is_err());
    }

    #[test]
    fn a_table_is_as_wide_as_what_stands_in_it() {
        let rows = [["a", "bcd", ""], ["abc", "d", "é"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a    bcd\nabc  d    é\n");
    }
}
