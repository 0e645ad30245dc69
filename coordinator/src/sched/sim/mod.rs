//! The simulator: thousands of small worlds, each out of one seed, in which the scheduler meets
//! every trouble that we know of.
//!
//! `make sim` runs 2,000 seeds, `make sim SEEDS=100000` more, and `make sim SEED=4711` one, with a
//! log. What the simulator can find is tested in `mutants/`, a package of its own: there the
//! scheduler is compiled with faults in it. Deliberately absent: processes, sockets and models.

mod cache_oracle;
mod chain;
mod checker;
mod clients;
mod fleet;
mod prng;
mod scenario;
pub(crate) mod swarm;
pub(crate) mod world;
