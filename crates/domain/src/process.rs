//! Reading of what the kernel says about a process.

use contract::metrics::ProcessMetrics;

/// Clock ticks per second in `/proc/<pid>/stat`; the kernel's interface fixes it (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// Figures from the text of `/proc/self/stat`, the page size and the number of open descriptors;
/// `None` if the text is not what the kernel writes.
///
/// Fields are counted from behind the command's closing parenthesis, because the command may
/// itself contain spaces (proc(5)).
#[must_use]
pub fn from_stat(stat: &str, page_bytes: u64, open_fds: u64) -> Option<ProcessMetrics> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 ticks are three million years"
    )]
    let cpu_s = (field(14)? + field(15)?) as f64 / TICKS_PER_S;
    Some(ProcessMetrics {
        cpu_s,
        resident_bytes: field(24)? * page_bytes,
        threads: field(20)?,
        open_fds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 100 9999 25 0";
        let expected = ProcessMetrics {
            cpu_s: 2.0,
            resident_bytes: 25 * 4096,
            threads: 3,
            open_fds: 5,
        };
        assert_eq!(from_stat(stat, 4096, 5), Some(expected));
        assert_eq!(from_stat("nonsense", 4096, 0), None);
    }
}
