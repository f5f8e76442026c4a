//! The DPDK ports against real devices: memory rings, a veth pair and a TAP in namespaces of their own.

mod member;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "member") {
        if let Err(reason) = member::run(&arguments[1..]) {
            eprintln!("{reason}");
            std::process::exit(1);
        }
        return;
    }
}
