//! Brings events to the programs of tenants.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use store::{Parcel, Sealer, Store};
use tokio_util::sync::CancellationToken;

/// Pause between two looks when nothing is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events on their way at a time.
const AT_A_TIME: u32 = 32;
/// Longest wait for a receiver.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Whether events may go to an address: not into our own network, where requests of ours would be believed.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => {
            let [a, b, ..] = it.octets();
            !(it.is_private()
                || it.is_loopback()
                || it.is_link_local()
                || it.is_broadcast()
                || it.is_documentation()
                || it.is_unspecified()
                || it.is_multicast()
                || a == 0
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0)
                || (a == 198 && (18..20).contains(&b))
                || a >= 240)
        }
        IpAddr::V6(it) => match it.to_ipv4_mapped() {
            Some(it) => is_public(IpAddr::V4(it)),
            None => {
                let [a, b, ..] = it.segments();
                // Of the internet only what is assigned: 2000::/3, without documentation and tunnels of other networks.
                (a & 0xE000) == 0x2000 && !(a == 0x2001 && b < 0x0200) && !(a == 0x2001 && b == 0x0DB8) && a != 0x2002
            }
        },
    }
}

/// Whether events may be sent to an address at all.
///
/// # Errors
/// Says what was expected.
pub fn check_endpoint(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|_| "expected an address such as https://example.com/hooks".to_owned())?;
    if parsed.scheme() != "https" {
        return Err("expected an address that begins with https://".into());
    }
    let literal = match parsed.host() {
        Some(url::Host::Ipv4(it)) => Some(IpAddr::V4(it)),
        Some(url::Host::Ipv6(it)) => Some(IpAddr::V6(it)),
        Some(url::Host::Domain(_)) => None,
        None => return Err("expected an address with a host".into()),
    };
    match literal {
        Some(address) if !is_public(address) => Err("expected an address on the internet, not in a private network".into()),
        _ => Ok(()),
    }
}

/// Finds only addresses on the internet, each time anew: a name may change its address between two questions.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|it| is_public(it.ip())).collect();
            if public.is_empty() {
                return Err("it has no address on the internet".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn client() -> reqwest::Result<Client> {
    Client::builder()
        .redirect(redirect::Policy::none())
        .timeout(TIMEOUT)
        .dns_resolver(Arc::new(PublicOnly))
        // A proxy would look names up by itself, past the resolver.
        .no_proxy()
        .user_agent(concat!("offhook/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Delivers until it is stopped. What is on its way then is delivered by the next process, after its lease.
pub(crate) async fn run(store: Store, sealer: Arc<Sealer>, stop: CancellationToken) {
    let client = match client() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "events cannot be delivered"),
    };
    while !stop.is_cancelled() {
        let parcels = match store.claim_parcels(AT_A_TIME, &sealer).await {
            Ok(parcels) => parcels,
            Err(error) => {
                tracing::debug!(%error, "the outbox cannot be looked at");
                Vec::new()
            }
        };
        if parcels.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => continue,
                () = stop.cancelled() => return,
            }
        }
        let mut under_way: FuturesUnordered<_> = parcels.iter().map(|it| deliver(&client, &store, it)).collect();
        while under_way.next().await.is_some() {}
    }
}

async fn deliver(client: &Client, store: &Store, parcel: &Parcel) {
    let outcome = match check_endpoint(&parcel.url) {
        Ok(()) => send(client, parcel).await,
        Err(problem) => Err(problem),
    };
    let (status, problem) = match &outcome {
        Ok(status) if (200..300).contains(status) => (Some(*status), None),
        Ok(status) => (Some(*status), Some(format!("it answered {status}"))),
        Err(problem) => (None, Some(problem.clone())),
    };
    if let Err(error) = store.parcel_done(parcel, status, problem.as_deref()).await {
        tracing::warn!(%error, ?parcel, "what became of an event cannot be noted: it will be sent again");
    }
}

async fn send(client: &Client, parcel: &Parcel) -> Result<u16, String> {
    let mut request = client.post(&parcel.url).header("content-type", "application/json").body(parcel.body.clone());
    for (name, value) in parcel.headers(Timestamp::now().as_second()) {
        request = request.header(name, value);
    }
    match request.send().await {
        Ok(response) => Ok(response.status().as_u16()),
        // Without the address: it may hold a secret of the tenant's.
        Err(error) => Err(error.without_url().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_to_the_internet_and_nowhere_else() {
        for fine in ["https://example.com/x", "https://8.8.8.8/", "https://[2606:4700::1111]/x?y=1"] {
            assert_eq!(check_endpoint(fine), Ok(()), "{fine}");
        }
        for refused in [
            "http://example.com/",
            "ftp://example.com/",
            "nonsense",
            "https://127.0.0.1/",
            "https://10.1.2.3/",
            "https://192.168.0.1/",
            "https://172.16.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://255.255.255.255/",
        ] {
            assert!(check_endpoint(refused).is_err(), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_name_of_our_own_network_is_not_asked() {
        let refused = PublicOnly.resolve("localhost".parse().unwrap()).await;
        assert!(refused.is_err());
    }
}
