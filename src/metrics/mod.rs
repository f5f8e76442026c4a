//! Metrics in Prometheus's text format: the control thread fills a [`Snapshot`], [`render`] makes the text of it, and
//! [`server`] hands it out.

use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::status::{PeerState, Role, Status};

pub mod server;

/// Everything that `status` and the metrics tell, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What `status` shows.
    pub status: Status,
    /// How often this member's role has changed, by virtual IP, in the order of [`Status::vips`].
    pub role_changes: Vec<u64>,
    /// Frames per turn that found any.
    pub batch_sizes: Histogram,
    /// Seconds from a burst's reception to its frames' sending.
    pub forward_seconds: Histogram,
}

/// How often values fell into each bucket. All workers' buckets, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// The buckets' upper bounds, inclusive, ascending.
    pub bounds: Vec<f64>,
    /// The values in each bucket alone; one more than there are bounds, for those above the last.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

/// The text of `/metrics`.
///
/// # Errors
/// Never for a name that is right; the encoder's own complaint otherwise.
pub fn render(snapshot: &Snapshot) -> prometheus::Result<Vec<u8>> {
    let mut families = families(snapshot);
    // The encoder takes a family without metrics for a mistake; without peers there is one.
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let Snapshot { status, role_changes, batch_sizes, forward_seconds } = snapshot;
    let frames = [
        ("wire", "rx", status.frames.wire_rx),
        ("wire", "tx", status.frames.wire_tx),
        ("host", "rx", status.frames.host_rx),
        ("host", "tx", status.frames.host_tx),
    ];
    let frames = frames.map(|(port, direction, count)| counter(&[("port", port), ("direction", direction)], count));
    let lost = status.lost.ports().map(|(port, count)| counter(&[("port", port)], count));
    let drops = status.drops.iter().map(|(reason, count)| counter(&[("reason", reason)], *count));
    let connections = status.vips.iter().flat_map(|vip| {
        let address = vip.address.to_string();
        let states = [("pending", vip.connections.pending), ("established", vip.connections.established)];
        states.map(|(state, count)| gauge(&[("vip", &address), ("state", state)], count as f64))
    });
    let roles = status.vips.iter().map(|vip| {
        let active = vip.role == Role::Active;
        gauge(&[("vip", &vip.address.to_string())], f64::from(u8::from(active)))
    });
    let changes = status.vips.iter().zip(role_changes);
    let changes = changes.map(|(vip, count)| counter(&[("vip", &vip.address.to_string())], *count));
    let peers = status.peers.iter().map(|peer| {
        let up = matches!(peer.state, PeerState::Alive | PeerState::Suspect);
        gauge(&[("peer", &peer.name)], f64::from(u8::from(up)))
    });
    let orphans = status.orphans.results().map(|(result, count)| counter(&[("result", result)], count));
    let heartbeats = status.heartbeats.results().map(|(result, count)| counter(&[("result", result)], count));
    use MetricType::{COUNTER, GAUGE, HISTOGRAM};
    vec![
        family("baton_frames_total", "Frames by port and direction.", COUNTER, frames),
        family("baton_lost_frames_total", "Frames lost before a worker could have them, by port.", COUNTER, lost),
        family("baton_drops_total", "Frames dropped, by reason.", COUNTER, drops),
        family("baton_connections", "Connections in the table.", GAUGE, connections),
        family("baton_role", "1 where this member is active for the virtual IP, else 0.", GAUGE, roles),
        family("baton_role_changes_total", "Changes of this member's role.", COUNTER, changes),
        family("baton_peer_up", "1 while the peer is not counted as dead or gone, else 0.", GAUGE, peers),
        family("baton_heartbeats_total", "Heartbeats received, by what became of them.", COUNTER, heartbeats),
        family("baton_orphans_total", "Clients that repeat themselves in vain, by result.", COUNTER, orphans),
        family("baton_worker_batch_size", "Frames per turn that found any.", HISTOGRAM, [histogram(batch_sizes)]),
        family(
            "baton_forward_seconds",
            "Seconds from a burst's reception to its frames' sending.",
            HISTOGRAM,
            [histogram(forward_seconds)],
        ),
    ]
}

fn family(name: &str, help: &str, kind: MetricType, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter(labels: &[(&str, &str)], count: u64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(count as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(histogram: &Histogram) -> Metric {
    let mut cumulative = 0;
    let buckets = histogram.bounds.iter().zip(&histogram.counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut shown = proto::Histogram::default();
    shown.set_bucket(buckets.collect());
    shown.set_sample_count(histogram.counts.iter().sum());
    shown.set_sample_sum(histogram.sum);
    let mut metric = labelled(&[]);
    metric.set_histogram(shown);
    metric
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Snapshot {
        let mut status: Status = serde_json::from_str(crate::status::tests::EXAMPLE).unwrap();
        status.drops = [("no_connection".into(), 3), ("syn_passive".into(), 0)].into();
        status.frames.wire_rx = 5;
        status.lost.host = 6;
        status.heartbeats.wrong_key = 2;
        Snapshot {
            status,
            role_changes: vec![4],
            batch_sizes: Histogram { bounds: vec![1.0, 2.0, 4.0], counts: vec![10, 0, 5, 1], sum: 33.0 },
            forward_seconds: Histogram { bounds: vec![1e-6, 2e-6], counts: vec![1, 2, 0], sum: 4.5e-6 },
        }
    }

    #[test]
    fn the_text_has_the_names_that_dashboards_hold_on_to() {
        let text = String::from_utf8(render(&example()).unwrap()).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"baton_frames_total{port="wire",direction="rx"} 5"#,
            r#"baton_frames_total{port="wire",direction="tx"} 0"#,
            r#"baton_frames_total{port="host",direction="rx"} 0"#,
            r#"baton_frames_total{port="host",direction="tx"} 0"#,
            r#"baton_lost_frames_total{port="wire"} 0"#,
            r#"baton_lost_frames_total{port="host"} 6"#,
            r#"baton_drops_total{reason="no_connection"} 3"#,
            r#"baton_drops_total{reason="syn_passive"} 0"#,
            r#"baton_connections{vip="10.0.0.100",state="pending"} 0"#,
            r#"baton_connections{vip="10.0.0.100",state="established"} 12"#,
            r#"baton_role{vip="10.0.0.100"} 1"#,
            r#"baton_role_changes_total{vip="10.0.0.100"} 4"#,
            r#"baton_peer_up{peer="s2"} 1"#,
            r#"baton_heartbeats_total{result="accepted"} 0"#,
            r#"baton_heartbeats_total{result="wrong_key"} 2"#,
            r#"baton_heartbeats_total{result="replayed"} 0"#,
            r#"baton_heartbeats_total{result="old_incarnation"} 0"#,
            r#"baton_heartbeats_total{result="duplicate_name"} 0"#,
            r#"baton_heartbeats_total{result="malformed"} 0"#,
            r#"baton_heartbeats_total{result="other_version"} 0"#,
            r#"baton_orphans_total{result="suspected"} 0"#,
            r#"baton_orphans_total{result="owned"} 0"#,
            r#"baton_orphans_total{result="given_up"} 0"#,
            r#"baton_orphans_total{result="crowded_out"} 0"#,
            r#"baton_orphans_total{result="reset"} 0"#,
            r#"baton_worker_batch_size_bucket{le="1"} 10"#,
            r#"baton_worker_batch_size_bucket{le="2"} 10"#,
            r#"baton_worker_batch_size_bucket{le="4"} 15"#,
            r#"baton_worker_batch_size_bucket{le="+Inf"} 16"#,
            r#"baton_worker_batch_size_sum 33"#,
            r#"baton_worker_batch_size_count 16"#,
            r#"baton_forward_seconds_bucket{le="0.000001"} 1"#,
            r#"baton_forward_seconds_bucket{le="0.000002"} 3"#,
            r#"baton_forward_seconds_bucket{le="+Inf"} 3"#,
            r#"baton_forward_seconds_sum 0.0000045"#,
            r#"baton_forward_seconds_count 3"#,
        ];
        assert_eq!(samples, expected);
        assert!(text.contains("# TYPE baton_frames_total counter\n"));
        assert!(text.contains("# TYPE baton_forward_seconds histogram\n"));
    }

    #[test]
    fn an_empty_snapshot_renders_and_labels_are_escaped() {
        render(&Snapshot::default()).unwrap();
        let mut snapshot = example();
        snapshot.status.peers[0].name = "a\"b\\c\nd".into();
        let text = String::from_utf8(render(&snapshot).unwrap()).unwrap();
        assert!(text.contains(r#"baton_peer_up{peer="a\"b\\c\nd"} 1"#));
    }
}
