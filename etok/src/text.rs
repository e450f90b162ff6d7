// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers as people read them.

/// 1234567 as "1,234,567".
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as "4.2 s", "1:05" or "1:02:03".
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{}:{:02}", whole / 60, whole % 60),
        h => format!("{h}:{:02}:{:02}", whole % 3600 / 60, whole % 60),
    }
}

/// A bitrate in kbit/s, or Mbit/s where that is easier to read.
pub fn bitrate(kbps: f64) -> String {
    if kbps >= 9999.5 { format!("{:.1} Mbit/s", kbps / 1000.0) } else { format!("{} kbit/s", significant(kbps)) }
}

/// Three digits that matter.
pub fn significant(x: f64) -> String {
    match x.abs() {
        a if a >= 99.95 => grouped_signed(x.round() as i64),
        a if a >= 9.995 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

fn grouped_signed(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(n.unsigned_abs()))
}

/// "1 frame", "2 frames".
pub fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// The last part of a path or URL.
pub fn file_name(path: &str) -> String {
    std::path::Path::new(path).file_name().map_or(path.into(), |n| n.to_string_lossy().into_owned())
}

/// A framerate as a number.
pub fn framerate((n, d): (u32, u32)) -> String {
    if n == 0 {
        return "variable frame rate".into();
    }
    let rate = format!("{:.3}", f64::from(n) / f64::from(d.max(1)));
    format!("{} frames/s", rate.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(duration(4.25), "4.2 s");
        assert_eq!(duration(65.4), "1:05");
        assert_eq!(duration(3723.0), "1:02:03");
        assert_eq!(bitrate(1234.4), "1,234 kbit/s");
        assert_eq!(bitrate(25_000.0), "25.0 Mbit/s");
        assert_eq!(significant(1.234), "1.23");
        assert_eq!(significant(-1234.0), "-1,234");
        assert_eq!(count(1, "frame"), "1 frame");
        assert_eq!(framerate((30000, 1001)), "29.97 frames/s");
        assert_eq!(framerate((25, 1)), "25 frames/s");
    }
}
