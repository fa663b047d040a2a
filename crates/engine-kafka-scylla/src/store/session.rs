//! One way to reach the cluster for migration and for service: same consistency, same datacentre, same TLS.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use openssl::ssl::{SslContext, SslContextBuilder, SslFiletype, SslMethod, SslVerifyMode};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    policies::{load_balancing::DefaultPolicy, retry::DefaultRetryPolicy},
    statement::Consistency,
};

use super::{StoreConfig, StoreError, StoreTls};

/// A session whose requests stay in the local datacentre, and the datacentres with their numbers of nodes.
pub(super) struct Connected {
    pub session: Session,
    pub datacenters: BTreeMap<String, usize>,
}

pub(super) async fn connect(config: &StoreConfig) -> Result<Connected, StoreError> {
    config.validate()?;
    // The local datacentre is known only after the first contact, so the profile is replaced then.
    let mut profile = profile(config, config.datacenter.as_deref()).into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.clone())
        .keyspaces_to_fetch([config.keyspace.as_str()])
        .tls_context(config.tls.as_ref().map(tls).transpose()?);
    if let (Some(user), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(user, password);
    }
    let session = Box::pin(builder.build())
        .await
        .map_err(|e| StoreError::Connect { nodes: config.nodes.join(", "), source: Box::new(e) })?;

    let mut datacenters = BTreeMap::<String, usize>::new();
    for node in session.get_cluster_state().get_nodes_info() {
        *datacenters.entry(node.datacenter.clone().unwrap_or_default()).or_default() += 1;
    }
    let local = match &config.datacenter {
        Some(named) => datacenters.get_key_value(named).map(|(name, _)| name),
        None if datacenters.len() == 1 => datacenters.keys().next(),
        None => None,
    };
    let Some(local) = local else {
        let known = datacenters.into_keys().collect::<Vec<_>>().join(", ");
        return Err(StoreError::Datacenter { known });
    };
    profile.map_to_another_profile(self::profile(config, Some(local)));
    Ok(Connected { session, datacenters })
}

/// Token-aware, local, LOCAL_QUORUM. The driver tries another replica where that is safe; waiting is [`super::retry`]'s.
fn profile(config: &StoreConfig, datacenter: Option<&str>) -> ExecutionProfile {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = datacenter {
        policy = policy.prefer_datacenter(datacenter.to_owned());
    }
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(config.request_timeout))
        .load_balancing_policy(policy.build())
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .build()
}

fn tls(tls: &StoreTls) -> Result<SslContext, StoreError> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    let wrong = |setting: &'static str, file: &Path| {
        let file = file.to_owned();
        move |source| StoreError::TlsFile { setting, file, source }
    };
    match &tls.ca_file {
        Some(file) => context.set_ca_file(file).map_err(wrong("ca_file", file))?,
        None => context.set_default_verify_paths()?,
    }
    if let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) {
        context.set_certificate_chain_file(certificate).map_err(wrong("cert_file", certificate))?;
        context.set_private_key_file(key, SslFiletype::PEM).map_err(wrong("key_file", key))?;
        context.check_private_key().map_err(wrong("key_file", key))?;
    }
    context.set_verify(if tls.verify { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    Ok(context.build())
}
