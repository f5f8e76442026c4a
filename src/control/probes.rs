//! temporary
use crossbeam::channel::Sender;
use crate::config::Config;
use crate::table::VipIndex;
#[allow(missing_docs)]
pub enum Measured { Metric(f64), Health { vip: VipIndex, healthy: bool } }
#[allow(missing_docs)]
pub struct Probes(Sender<Measured>);
impl Probes {
    #[allow(missing_docs)]
    pub fn start(_: &Config, _: impl Fn() -> usize + Send + 'static, s: Sender<Measured>) -> std::io::Result<Probes> { Ok(Probes(s)) }
}
