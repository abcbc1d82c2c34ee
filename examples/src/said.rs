//! What a process says, or is told: a value a line, as JSON.

/// Makes types lines of text: they are displayed and parsed as JSON objects.
#[macro_export]
macro_rules! json_lines {
    ($($type:ty),+ $(,)?) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
            }
        }

        impl std::str::FromStr for $type {
            type Err = serde_json::Error;

            fn from_str(line: &str) -> Result<Self, Self::Err> {
                serde_json::from_str(line)
            }
        }
    )+};
}

/// Says something to whoever started this process, on a line of its own.
pub fn say(line: &impl std::fmt::Display) {
    use std::io::Write as _;
    // Whoever reads may be gone; then the input closes as well, and the process ends by that.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
