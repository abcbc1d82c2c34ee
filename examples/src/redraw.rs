//! A table in a terminal that is drawn again and again in its place.

use std::io::Write;

/// How many lines of a table are on the screen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawn(pub usize);

impl Drawn {
    /// Takes the table off the terminal, which must be the one it was drawn on.
    pub fn erase(&mut self, terminal: &mut impl Write) {
        if self.0 > 0 {
            // Up to where it began, also where a key was pressed meanwhile that the terminal shows, and clear from there. A
            // terminal that has gone away needs no table.
            let _ = write!(terminal, "\r\x1b[{}A\x1b[J", self.0).and_then(|()| terminal.flush());
            self.0 = 0;
        }
    }

    /// Draws these lines where the table was: all in one piece, so that it does not flicker.
    pub fn draw(&mut self, terminal: &mut impl Write, lines: &[String]) {
        let mut text = Vec::new();
        self.erase(&mut text);
        for line in lines {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        let _ = terminal.write_all(&text).and_then(|()| terminal.flush());
        self.0 = lines.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_drawn_in_its_place_and_taken_off_the_screen_once() {
        /// What was written, by the write, and that it is to be seen.
        struct Terminal(Vec<String>);
        impl Write for Terminal {
            fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
                self.0.push(String::from_utf8_lossy(text).into_owned());
                Ok(text.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                self.0.push("seen".to_owned());
                Ok(())
            }
        }
        let (mut drawn, mut terminal) = (Drawn::default(), Terminal(Vec::new()));
        drawn.draw(&mut terminal, &["one".to_owned(), "two".to_owned()]);
        drawn.draw(&mut terminal, &["three".to_owned()]);
        assert_eq!(terminal.0, ["one\ntwo\n", "seen", "\r\x1b[2A\x1b[Jthree\n", "seen"]);
        drawn.erase(&mut terminal);
        drawn.erase(&mut terminal);
        assert_eq!(terminal.0[4..].concat(), "\r\x1b[1A\x1b[Jseen");
    }
}
