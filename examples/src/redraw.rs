//! A table in a terminal that is drawn again and again in its place.

use std::io::Write;

/// How many lines of a table are on the screen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawn(pub usize);

impl Drawn {
    /// Takes the table off the terminal, which must be the one it was drawn on.
    pub fn erase(&mut self, terminal: &mut impl Write) {
        if self.0 > 0 {
            // Up to where it began, and clear from there. A terminal that has gone away needs no table.
            let _ = write!(terminal, "\x1b[{}A\x1b[J", self.0);
            self.0 = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_taken_off_the_screen_once() {
        let (mut drawn, mut terminal) = (Drawn(3), Vec::new());
        drawn.erase(&mut terminal);
        drawn.erase(&mut terminal);
        assert_eq!(terminal, b"\x1b[3A\x1b[J");
    }
}
