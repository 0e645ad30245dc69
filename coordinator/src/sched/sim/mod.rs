//! The simulator: thousands of small worlds, each out of one seed, in which the scheduler meets
//! every trouble that we know of, and a list of planted faults that it must find.
//!
//! `make sim` runs 2,000 seeds, `make sim SEEDS=100000` more, `make sim SEED=4711` one, with a log. Deliberately absent: processes, sockets and models.

mod bugs;
mod chain;
mod checker;
mod clients;
mod fleet;
mod prng;
mod rules;
mod scenario;
mod swarm;
mod world;
