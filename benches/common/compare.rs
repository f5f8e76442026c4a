//! Contenders in turns, round after round in one process: what the machine does meanwhile hits all of them alike, and a
//! ratio is that of one round.

/// The figures of some contenders, by round.
pub struct Rounds<const N: usize>(Vec<[f64; N]>);

/// Runs all contenders in each round, in another order each time; `run` returns what one of them has cost.
pub fn in_turns<const N: usize>(rounds: usize, mut run: impl FnMut(usize) -> f64) -> Rounds<N> {
    // The first round warms up.
    for contender in 0..N {
        run(contender);
    }
    let round = |number: usize| {
        let mut figures = [0.0; N];
        (0..N).map(|place| (place + number) % N).for_each(|contender| figures[contender] = run(contender));
        figures
    };
    Rounds((0..rounds).map(round).collect())
}

impl<const N: usize> Rounds<N> {
    /// The median of what a contender cost.
    pub fn cost(&self, contender: usize) -> f64 {
        self.median(|figures| figures[contender])
    }

    /// The median of any figure of a round.
    pub fn median(&self, figure: impl Fn(&[f64; N]) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        // The middle one, or the two in the middle.
        all[(all.len() - 1) / 2].midpoint(all[all.len() / 2])
    }

    /// The median of one's cost in terms of another's.
    pub fn ratio(&self, contender: usize, other: usize) -> f64 {
        self.median(|figures| figures[contender] / figures[other])
    }
}
