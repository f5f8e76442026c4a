//! The command line: argument types and one function per command.
//!
//! What a command finds goes to stdout, every error to stderr: one line first, then why. Exit codes: 0; 1 the command
//! failed; 2 the configuration, or the command line itself, is wrong.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[cfg(feature = "breakable")]
use baton::broken::Rule;
use baton::config::key::Key;
use baton::config::{self, CONTROL_SOCKET, Config, For, Rejected, units};
use baton::control::MEMBERS_MAX;
use baton::control::protocol::{Connection, ConnectionState, Request, Response};
use baton::control::socket::{Client, ClientError};
use baton::sim::hunt::Hunt;
use baton::sim::run;
use baton::status;
use clap::{Args, CommandFactory, Parser, Subcommand};

/// What `--help` and the man page say at their end.
const MORE: &str = "\
Exit status: 0; 1 the command failed; 2 the configuration, or the command line itself, is wrong.

Signals to `baton run`: SIGTERM and SIGINT hand its roles over and leave; SIGHUP starts anew with the configuration as it \
is now, by the program as it is installed now. Connections outlive both.

Files: the package's unit runs /etc/baton/baton.yaml; the control socket is /run/baton/baton.sock, and the journal of \
what is set up in the kernel lies beside it. Documentation and sample configurations: /usr/share/doc/baton.";

/// Turns a plain layer-2 switch and N ordinary servers into one layer-4 switch.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_long_help = MORE)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a member in the foreground until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file; one line per fault: `FILE:LINE: what is wrong; expected …`.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Show this member's view of itself and its cluster.
    Status {
        /// As JSON on one line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        member: Member,
    },
    /// Give roles away and accept nothing new.
    Drain {
        /// For one virtual IP only.
        #[arg(long, value_name = "ADDR")]
        vip: Option<IpAddr>,
        /// Return when the last connection has ended.
        #[arg(long)]
        wait: bool,
        /// Wait no longer than this, such as 90s or 5m; the member stays draining then.
        #[arg(long, value_name = "DURATION", requires = "wait", value_parser = duration)]
        timeout: Option<Duration>,
        #[command(flatten)]
        member: Member,
    },
    /// Take part again after a drain.
    Undrain {
        /// For one virtual IP only.
        #[arg(long, value_name = "ADDR")]
        vip: Option<IpAddr>,
        #[command(flatten)]
        member: Member,
    },
    /// Take the role for a virtual IP over; returns when it has moved.
    Activate {
        /// The virtual IP.
        #[arg(long, value_name = "ADDR")]
        vip: IpAddr,
        #[command(flatten)]
        member: Member,
    },
    /// Make a new cluster key.
    Keygen {
        /// Write it to this new file with mode 0600 instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write the man pages into a directory, for packages.
    #[command(hide = true)]
    Man {
        /// The directory; it must exist.
        directory: PathBuf,
    },
    /// Simulate clusters under faults; print the first seed that breaks a rule and how to replay it.
    Sim {
        /// The first run's seed; each further run has the next. By default a fresh one.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// How many runs.
        #[arg(long, value_name = "N", default_value_t = 100)]
        runs: u64,
        /// How many members, 2 to 64; by default 3 to 16, by the seed.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=MEMBERS_MAX as u64))]
        nodes: Option<u64>,
        /// Steps of a run: of each a fault, five connections and half a second.
        #[arg(long, value_name = "N", default_value_t = run::STEPS, value_parser = clap::value_parser!(u32).range(1..=1000))]
        steps: u32,
        /// Break this rule on purpose.
        #[cfg(feature = "breakable")]
        #[arg(long = "break", value_name = "RULE", value_parser = rule)]
        breaks: Option<Rule>,
    },
    /// List the connections in the table: client, port, state, age.
    Connections {
        /// As a JSON array.
        #[arg(long)]
        json: bool,
        /// Of one virtual IP only.
        #[arg(long, value_name = "ADDR")]
        vip: Option<IpAddr>,
        #[command(flatten)]
        member: Member,
    },
}

/// Which running member is meant.
#[derive(Debug, Args)]
struct Member {
    /// The member's control socket, as `control.socket` in its configuration.
    #[arg(long, value_name = "PATH", default_value = CONTROL_SOCKET)]
    socket: PathBuf,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    units::duration(text).ok_or("expected a duration such as 500ms, 90s or 5m")
}

#[cfg(feature = "breakable")]
fn rule(name: &str) -> Result<Rule, String> {
    let rule = Rule::ALL.iter().find(|rule| rule.name() == name).copied();
    rule.ok_or_else(|| {
        format!("expected one of {}", Rule::ALL.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", "))
    })
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Every fault on a line of its own.
    #[error("{0}")]
    BadConfig(#[from] Rejected),
    #[error("error: {0}")]
    Client(#[from] ClientError),
    #[error("error: {what}\n  {why}")]
    Other { what: String, why: String },
    /// The reader of stdout has left, as `head` does: it has what it wanted.
    #[error("nobody reads")]
    NobodyReads,
}

impl Failure {
    fn new(what: impl Into<String>, why: impl ToString) -> Failure {
        Failure::Other { what: what.into(), why: why.to_string() }
    }

    fn output(error: io::Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::NobodyReads,
            _ => Failure::new("the output can not be written", error),
        }
    }
}

impl Arguments {
    /// Runs the command and tells what went wrong.
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Run { config } => run_member(&config),
            Command::Check { file } => check(&file),
            Command::Status { json, member } => show_status(json, &member),
            Command::Drain { vip, wait, timeout, member } => drain(vip, wait, timeout, &member),
            Command::Undrain { vip, member } => undrain(vip, &member),
            Command::Activate { vip, member } => activate(vip, &member),
            Command::Keygen { out } => keygen(out.as_deref()),
            Command::Man { directory } => man(&directory),
            #[cfg(not(feature = "breakable"))]
            Command::Sim { seed, runs, nodes, steps } => simulate(seed, runs, nodes, steps),
            #[cfg(feature = "breakable")]
            Command::Sim { seed, runs, nodes, steps, breaks } => {
                baton::broken::break_rule(breaks);
                simulate(seed, runs, nodes, steps)
            }
            Command::Connections { json, vip, member } => connections(json, vip, &member),
        };
        match done {
            Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&failure.to_string());
                if matches!(failure, Failure::BadConfig(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
            }
        }
    }
}

/// A line to stderr. Where that is closed too, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(Failure::output)
}

fn run_member(file: &Path) -> Result<(), Failure> {
    let cores = cores()?;
    let config = config::load(file, For::ThisMachine { cores: &cores })?;
    start_logging(&config);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let again = file.to_owned();
    raise(&config, move || match config::load(&again, For::ThisMachine { cores: &cores }) {
        Ok(_) => true,
        Err(rejected) => {
            tracing::error!("the configuration is not reloaded: {rejected}");
            false
        }
    })
}

/// Runs the member. After SIGHUP it begins anew as a new program in this very process, since DPDK can be set up only
/// once in one; the kernel's side, and so every connection, outlives that.
#[cfg(feature = "dpdk")]
fn raise(config: &Config, reload: impl Fn() -> bool + Send + 'static) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;

    use baton::control::thread::Ended;
    use rustix::thread::{sched_getaffinity, sched_setaffinity};

    let failed = |error: io::Error| Failure::new("the member could not restart", error);
    // The run pins this thread to the control core, and the next one's threads would inherit that.
    let cores = sched_getaffinity(None).map_err(|error| failed(error.into()))?;
    let ended = baton::launch::run(config, Box::new(reload));
    match ended.map_err(|error| Failure::new("the member could not run", error))? {
        Ended::Left => Ok(()),
        Ended::Returning => {
            sched_setaffinity(None, &cores).map_err(|error| failed(error.into()))?;
            Err(failed(
                std::process::Command::new(own_program().map_err(failed)?).args(std::env::args_os().skip(1)).exec(),
            ))
        }
    }
}

/// This program's file; if an upgrade has put another in its place, that one, as Linux marks the old one's path.
#[cfg(feature = "dpdk")]
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let successor = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(match successor {
        Some(successor) if successor.exists() => successor,
        Some(_) => "/proc/self/exe".into(),
        None => path,
    })
}

#[cfg(not(feature = "dpdk"))]
fn raise(_: &Config, _: impl Fn() -> bool) -> Result<(), Failure> {
    Err(Failure::new("the member could not run", "this baton was built without its DPDK ports (feature `dpdk`)"))
}

/// The cores that this process may run on, ascending.
fn cores() -> Result<Vec<usize>, Failure> {
    let cores = core_affinity::get_core_ids();
    let cores = cores.ok_or_else(|| Failure::new("this machine's cores can not be told", "the kernel does not say"))?;
    let mut cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    Ok(cores)
}

fn start_logging(config: &Config) {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;

    // capsule tells its every step; what matters of them is told by baton itself.
    let quiet = config.log.level.min(tracing::Level::WARN);
    let levels = Targets::new().with_default(config.log.level).with_target("capsule", quiet);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    if config.log.json {
        tracing_subscriber::registry().with(lines.json().with_filter(levels)).init();
    } else {
        let lines = lines.with_ansi(io::stderr().is_terminal());
        tracing_subscriber::registry().with(lines.with_filter(levels)).init();
    }
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = config::load(file, For::AnyMachine)?;
    let name = file.display();
    for warning in config.warnings() {
        complain(&format!("{name}: warning: {warning}"));
    }
    // The file may be meant for another machine, so what does not fit this one is no fault of it.
    if let Err(rejected) = config::load(file, For::ThisMachine { cores: &cores()? }) {
        for fault in rejected.faults {
            complain(&format!("{name}:{}: warning: to run here: {fault}", fault.line));
        }
    }
    say(&format!("{name}: ok"))
}

fn man(directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(|error| Failure::new(format!("{} was not written to", directory.display()), error))
}

fn keygen(out: Option<&Path>) -> Result<(), Failure> {
    let key = Key::generate().map_err(|error| Failure::new("no key could be made", error))?;
    match out {
        Some(path) => key.write_new(path).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AlreadyExists => "the file exists already, and a key is never overwritten".to_owned(),
                _ => error.to_string(),
            };
            Failure::new(format!("{} was not written", path.display()), why)
        }),
        None => say(key.to_line().trim_end()),
    }
}

/// Simulates runs until one breaks a rule.
fn simulate(seed: Option<u64>, runs: u64, nodes: Option<u64>, steps: u32) -> Result<(), Failure> {
    let seed = match seed {
        Some(seed) => seed,
        // Short, so that it is easily told to somebody else.
        None => getrandom::u32().map_err(|error| Failure::new("no seed could be drawn", error))?.into(),
    };
    say(&format!("seed {seed}, {runs} runs"))?;
    let first = run::Setup { seed, members: nodes.map(|nodes| nodes as usize), steps };
    let findings = Hunt { first, runs }.run().map_err(|error| Failure::new("the simulation could not go on", error))?;
    say(&findings.to_string())?;
    match findings.failure {
        None => Ok(()),
        Some(failure) => Err(Failure::new(format!("seed {} broke a rule", failure.setup.seed), failure.violation.what)),
    }
}

/// Sends one request and returns its first response; one that says why not is a failure of `what` was tried.
fn ask(member: &Member, request: &Request, what: &str) -> Result<(Client, Response), Failure> {
    let mut client = Client::connect(&member.socket)?;
    match client.request(request)? {
        Response::Refused(why) | Response::Error(why) => Err(Failure::new(what, why)),
        response => Ok((client, response)),
    }
}

/// A response that does not belong to the request.
fn strange(response: &Response) -> Failure {
    Failure::new("baton answered what was not asked for", format!("{response:?}"))
}

fn show_status(json: bool, member: &Member) -> Result<(), Failure> {
    match ask(member, &Request::Status, "the member does not tell its status")?.1 {
        Response::Status(status) if json => {
            say(&serde_json::to_string(&status).map_err(|error| Failure::new("the status is not JSON", error))?)
        }
        Response::Status(status) => write!(io::stdout(), "{status}").map_err(Failure::output),
        response => Err(strange(&response)),
    }
}

fn drain(vip: Option<IpAddr>, wait: bool, timeout: Option<Duration>, member: &Member) -> Result<(), Failure> {
    let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let request = Request::Drain { vip, wait, timeout_ms };
    match ask(member, &request, "the member does not drain")?.1 {
        Response::Done if wait => say("drained: no connection is left"),
        Response::Done => say("draining"),
        Response::TimedOut { connections } => Err(Failure::new(
            format!("timed out with {connections} connections left"),
            "the member stays draining; `baton undrain` makes it take part again",
        )),
        response => Err(strange(&response)),
    }
}

fn undrain(vip: Option<IpAddr>, member: &Member) -> Result<(), Failure> {
    match ask(member, &Request::Undrain { vip }, "the member goes on draining")?.1 {
        Response::Done => say("taking part"),
        response => Err(strange(&response)),
    }
}

fn activate(vip: IpAddr, member: &Member) -> Result<(), Failure> {
    match ask(member, &Request::Activate { vip }, &format!("the role for {vip} was not taken over"))?.1 {
        Response::Done => say(&format!("active for {vip}")),
        response => Err(strange(&response)),
    }
}

fn connections(json: bool, vip: Option<IpAddr>, member: &Member) -> Result<(), Failure> {
    let request = Request::Connections { vip };
    let what = "the member does not list its connections";
    let (mut client, mut response) = ask(member, &request, what)?;
    let mut listing = Listing { json, count: 0, out: BufWriter::new(io::stdout().lock()) };
    loop {
        let more = match response {
            Response::Connections { connections, more } => {
                listing.page(&connections).map_err(Failure::output)?;
                more
            }
            Response::Refused(why) | Response::Error(why) => return Err(Failure::new(what, why)),
            response => return Err(strange(&response)),
        };
        if !more {
            return listing.end().map_err(Failure::output);
        }
        response = client.response()?;
    }
}

/// Connections as they come, so that millions of them take no memory here.
struct Listing<W: Write> {
    json: bool,
    count: u64,
    out: W,
}

impl<W: Write> Listing<W> {
    fn page(&mut self, connections: &[Connection]) -> io::Result<()> {
        for connection in connections {
            if self.json {
                self.out.write_all(if self.count == 0 { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, connection)?;
            } else {
                if self.count == 0 {
                    writeln!(self.out, "{:<15}  {:>5}  {:<21}  {:<11}  AGE", "VIP", "PORT", "CLIENT", "STATE")?;
                }
                let Connection { vip, client, port, state, age_ms } = connection;
                let (vip, client, age) = (vip.to_string(), client.to_string(), status::age(*age_ms));
                let state = match state {
                    ConnectionState::Pending => "pending",
                    ConnectionState::Established => "established",
                };
                writeln!(self.out, "{vip:<15}  {port:>5}  {client:<21}  {state:<11}  {age}")?;
            }
            self.count += 1;
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        if self.json {
            self.out.write_all(if self.count == 0 { b"[]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()
    }
}
