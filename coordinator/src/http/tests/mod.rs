//! The HTTP front over real sockets, in front of a scripted serve loop.

mod access;
mod answers;
mod choices;
mod client;
mod connections;
mod docs;
mod ends;
mod faults;
mod fields;
mod http2;
mod http2_bounds;
mod http2_client;
mod keys;
mod leaving;
mod reasoning;
mod refusals;
mod request_ids;
mod server_routes;
mod tls;
