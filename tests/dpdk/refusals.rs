//! What cannot work is refused, with the reason.

use crate::Test;
use crate::net::Net;
use crate::process::Member;

pub fn tests() -> Vec<Test> {
    vec![
        ("what_cannot_work_is_refused_with_the_reason", what_cannot_work),
        ("two_members_never_share_an_interface", two_members_never_share_an_interface),
    ]
}

fn refused(namespace: &str, arguments: &[&str], reason: &str) {
    let (status, said, errors) = Member::start(namespace, arguments).end();
    assert_eq!(status.code(), Some(1), "{arguments:?}: {said:?} {errors}");
    assert!(errors.contains(reason), "{arguments:?} says {errors:?}, not {reason:?}");
}

fn what_cannot_work() {
    let null = "wire=vdev:net_null0";
    refused("", &["wire=interface:nosuch0", "host=vdev:net_null1"], "interface nosuch0: there is none of this name");
    refused("", &[null, "host=tap:lo"], "interface lo: it exists, but is not a TAP");
    refused("", &[null, "host=vdev:net_null0"], "wire and host are both the device net_null0");
    refused("", &[null, "host=vdev:net_null1", "workers=900"], "core 900 is not among the cores");
    refused("", &[null, "host=vdev:net_null1", "eal=-m 64"], "contains white space");
    refused("", &[null, "host=vdev:net_nosuch1"], "setting DPDK up");
    let net = Net::new();
    net.member("ip tuntap add dev single mode tap");
    refused(&net.member, &[null, "host=tap:single"], "interface single: it exists, but is not a TAP with multi_queue");
}

fn two_members_never_share_an_interface() {
    let net = Net::new();
    let first = Member::started(&net.member, &["wire=interface:w0", "host=tap:t0"]);
    let taken = "another member on this machine uses it";
    refused(&net.member, &["wire=interface:w0", "host=vdev:net_null1"], &format!("interface w0: {taken}"));
    refused(&net.member, &["wire=vdev:net_null0", "host=tap:t0"], &format!("interface t0: {taken}"));
    first.finish();
    Member::started(&net.member, &["wire=interface:w0", "host=tap:t0"]).finish();
}
