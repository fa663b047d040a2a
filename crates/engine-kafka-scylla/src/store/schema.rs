//! Creates and checks the tables. The schema has one number; a program serves exactly the version it was built for.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use scylla::{
    client::session::Session,
    errors::{DbError, ExecutionError, RequestAttemptError},
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    response::query_result::QueryRowsResult,
    statement::Statement,
};

use super::{Store, StoreConfig, StoreError, error::transient, retry::Backoff, session};

/// The schema version of this program.
pub const SCHEMA_VERSION: u32 = 2;

/// The statements that lead to each version, the first to version 1.
const VERSIONS: [&str; SCHEMA_VERSION as usize] =
    [include_str!("../../../../schemas/cql/v1.cql"), include_str!("../../../../schemas/cql/v2.cql")];

/// Tables whose rows vanish after the retention.
const RETAINED: [&str; 2] = ["order_rows", "order_keys"];

/// Windows change along: ScyllaDB bounds how many a retention may have.
const RETENTION: &str = "ALTER TABLE {keyspace}.{table} WITH default_time_to_live = {ttl_seconds} AND compaction = \
    {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS', \
    'compaction_window_size': '{window_hours}'}";

/// Schema changes and TRUNCATE wait for every node, so they get longer than a request for rows.
pub(super) const SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);
const SCHEMA_ATTEMPTS: usize = 8;
/// Compaction windows over a retention, up to twice as many by rounding: ScyllaDB refuses more than 50.
const WINDOWS: u64 = 24;

/// What [`Store::migrate`] found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// There was no schema before. True for each of several callers that create it at the same time.
    pub created: bool,
    /// Version before; 0 = none.
    pub from: u32,
    /// Version now.
    pub to: u32,
}

impl Store {
    /// Brings the schema to this program's version: creates the keyspace (replicated in every datacentre of the
    /// cluster) and the tables, and sets the retention of rows written from now on. An existing keyspace keeps its
    /// replication. Safe to repeat, and to run from several nodes at once.
    ///
    /// # Errors
    /// [`StoreError::SchemaNewer`] if a newer program was here, before anything is changed;
    /// [`StoreError::TooFewNodes`] if a new keyspace could not be replicated; else as [`Store::connect`].
    pub async fn migrate(config: &StoreConfig) -> Result<Migrated, StoreError> {
        let connected = session::connect(config).await?;
        let session = &connected.session;
        let from = version(session, &config.keyspace).await?;
        refuse_newer(config, from)?;
        if from == 0 {
            check_nodes(config, &connected.datacenters)?;
        }
        let fill = Fill::new(config, connected.datacenters.keys());
        let changer = SchemaChanger::new(session);
        for (number, script) in (1u32..).zip(VERSIONS).filter(|(number, _)| *number > from) {
            for statement in statements(script) {
                changer.run(&fill.apply(&statement)).await?;
            }
            let done = "INSERT INTO {keyspace}.schema_version (component, version) VALUES ('order_rows', {version})";
            changer.run(&fill.apply(done).replace("{version}", &number.to_string())).await?;
        }
        for table in RETAINED {
            if retention(session, &config.keyspace, table).await? != Some(fill.ttl_seconds) {
                changer.run(&fill.apply(RETENTION).replace("{table}", table)).await?;
            }
        }
        Ok(Migrated { created: from == 0, from, to: SCHEMA_VERSION })
    }
}

/// Fails unless the keyspace has exactly this program's schema.
pub(super) async fn check(session: &Session, config: &StoreConfig) -> Result<(), StoreError> {
    let found = version(session, &config.keyspace).await?;
    refuse_newer(config, found)?;
    if found < SCHEMA_VERSION {
        return Err(StoreError::SchemaOld { keyspace: config.keyspace.clone(), found, wanted: SCHEMA_VERSION });
    }
    Ok(())
}

fn refuse_newer(config: &StoreConfig, found: u32) -> Result<(), StoreError> {
    if found > SCHEMA_VERSION {
        return Err(StoreError::SchemaNewer { keyspace: config.keyspace.clone(), found, known: SCHEMA_VERSION });
    }
    Ok(())
}

fn check_nodes(config: &StoreConfig, datacenters: &BTreeMap<String, usize>) -> Result<(), StoreError> {
    let replication = config.replication;
    match datacenters.iter().find(|(_, nodes)| **nodes < usize::from(replication)) {
        Some((name, &nodes)) => Err(StoreError::TooFewNodes { datacenter: name.clone(), nodes, replication }),
        None => Ok(()),
    }
}

/// The highest completed version; 0 if there is none.
async fn version(session: &Session, keyspace: &str) -> Result<u32, StoreError> {
    let tables = format!(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = 'schema_version'"
    );
    if query(session, &tables).await?.rows_num() == 0 {
        return Ok(0);
    }
    let versions = format!("SELECT version FROM {keyspace}.schema_version WHERE component = 'order_rows'");
    let versions = query(session, &versions).await?;
    let mut highest = 0;
    for row in versions.rows::<(i32,)>().map_err(|e| StoreError::Answer(e.to_string()))? {
        let (number,) = row.map_err(|e| StoreError::Answer(e.to_string()))?;
        highest = highest.max(u32::try_from(number).map_err(|e| StoreError::Answer(e.to_string()))?);
    }
    Ok(highest)
}

/// The seconds after which new rows vanish; 0 = never; `None` if the answering node doesn't know the table yet.
async fn retention(session: &Session, keyspace: &str, table: &str) -> Result<Option<u64>, StoreError> {
    let found = format!(
        "SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'"
    );
    let found = query(session, &found).await?;
    let row = found.maybe_first_row::<(i32,)>().map_err(|e| StoreError::Answer(e.to_string()))?;
    Ok(row.and_then(|(seconds,)| u64::try_from(seconds).ok()))
}

/// Without values, for which the driver would prepare the statement: a busy server may have forgotten it at once.
async fn query(session: &Session, text: &str) -> Result<QueryRowsResult, StoreError> {
    let answer = session.query_unpaged(text, ()).await.map_err(StoreError::request("read the schema"))?;
    answer.into_rows_result().map_err(|e| StoreError::Answer(e.to_string()))
}

/// Sends schema changes to one node, the same from every caller: two Cassandra nodes that create a table at the same
/// moment would give it two identities.
struct SchemaChanger<'a> {
    session: &'a Session,
    node: Option<NodeIdentifier>,
}

impl<'a> SchemaChanger<'a> {
    fn new(session: &'a Session) -> Self {
        let cluster = session.get_cluster_state();
        let up = cluster.get_nodes_info().iter().filter(|node| node.is_connected());
        let node = up.map(|node| node.host_id).min().map(NodeIdentifier::HostId);
        Self { session, node }
    }

    async fn run(&self, text: &str) -> Result<(), StoreError> {
        let mut statement = Statement::new(text);
        statement.set_is_idempotent(true);
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        if let Some(node) = &self.node {
            statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(node.clone(), None)));
        }
        let mut backoff = Backoff::new();
        for _ in 1..SCHEMA_ATTEMPTS {
            match self.session.query_unpaged(statement.clone(), ()).await {
                Ok(_) => return Ok(()),
                // Somebody else's IF NOT EXISTS was faster between this one's look and its leap.
                Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::AlreadyExists { .. },
                    _,
                ))) => return Ok(()),
                Err(e) if transient(&e) => tokio::time::sleep(backoff.next_pause()).await,
                Err(e) => return Err(StoreError::request("change the schema")(e)),
            }
        }
        self.session.query_unpaged(statement, ()).await.map(drop).map_err(StoreError::request("change the schema"))
    }
}

/// What the placeholders stand for.
struct Fill {
    keyspace: String,
    replication: String,
    ttl_seconds: u64,
    window_hours: u64,
}

impl Fill {
    fn new<'a>(config: &StoreConfig, datacenters: impl Iterator<Item = &'a String>) -> Self {
        let mut replication = String::from("{'class': 'NetworkTopologyStrategy'");
        for name in datacenters {
            let _ = write!(replication, ", '{}': {}", name.replace('\'', "''"), config.replication);
        }
        replication.push('}');
        let ttl_seconds = config.retention.map_or(0, |r| r.as_secs());
        let window_hours = config.retention.map_or(24, |_| (ttl_seconds / 3600 / WINDOWS).max(1));
        Self { keyspace: config.keyspace.clone(), replication, ttl_seconds, window_hours }
    }

    fn apply(&self, statement: &str) -> String {
        statement
            .replace("{keyspace}", &self.keyspace)
            .replace("{replication}", &self.replication)
            .replace("{ttl_seconds}", &self.ttl_seconds.to_string())
            .replace("{window_hours}", &self.window_hours.to_string())
    }
}

/// The statements of a script, without its comments.
fn statements(script: &str) -> Vec<String> {
    let code = script.lines().map(|line| line.split("--").next().unwrap_or_default().trim_end());
    let code = code.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    code.split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}
