//! The simulator: thousands of small worlds, each out of one seed, in which the scheduler meets
//! every trouble that we know of, and a list of planted faults that it must find.
//!
//! `cargo test -p binfer-coordinator sim` runs 2,000 seeds; BINFER_SIM_SEEDS=100000 more,
//! BINFER_SIM_SEED=4711 one, with a log. Deliberately absent: processes, sockets and models.

mod bugs;
mod chain;
mod checker;
mod fleet;
mod prng;
mod rules;
mod scenario;
mod speed;
mod swarm;
mod world;
