//! The whole road on a real RabbitMQ: worker processes, the simulator as a process, and a foreign
//! publisher and consumer.

mod foreign;
mod hostile;
mod kill;
mod operator;
mod readiness;
mod restart;
mod secrets;
mod share;
mod telling;
mod top;
