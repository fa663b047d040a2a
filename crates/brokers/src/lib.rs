//! Brings up a Kafka broker and a store that speaks CQL, for tests, benchmarks and the demo.
