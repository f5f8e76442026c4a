//! Durations and percentages as they are written: `10ms`, `2s`, `1m`; `20%`.

use std::time::Duration;

/// A duration: a whole number directly followed by `ms`, `s` or `m`; zero also as `0`. `None` for anything else.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis.map(Duration::from_millis)
}

/// A duration the way [`duration`] reads it, in the largest unit that gives a whole number; cut to milliseconds.
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0".into(),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// A percentage as a fraction: `20%` is 0.2. Digits with at most one point; `None` for anything else.
pub fn percentage(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    Some(number / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Some(Duration::from_secs(60)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for wrong in
            ["", "10", "ms", "1.5s", "-1s", "1 s", "1h", "1S", "99999999999999999999ms", "18446744073709551615m"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn percentages_need_the_sign() {
        assert_eq!(percentage("20%"), Some(0.2));
        assert_eq!(percentage("12.5%"), Some(0.125));
        for wrong in ["", "%", "20", "0.2", "-1%", "inf%", "1e1%", "1..2%", " 20%"] {
            assert_eq!(percentage(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0_u64..1 << 40) {
            let written = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show(written)), Some(written));
        }
    }
}
