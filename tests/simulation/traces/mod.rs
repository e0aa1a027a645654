//! One trace from publisher to consumer, on a real RabbitMQ, with worker processes and a collector
//! that takes OTLP.

mod collector;
mod conventions;
mod namespace;
mod quiet;
mod sending;
mod spanning;
