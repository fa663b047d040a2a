//! The engine that outgrows one machine: Kafka is the log, ScyllaDB holds the rows.
