//! A master, its replica and three sentinels who decide which of the two is the master.

use std::collections::HashMap;

use futures::future::try_join_all;

use super::{Options, Patience, Server, ensure};

const SENTINELS: usize = 3;

/// Two stores under the name `mymaster`, watched by three sentinels. A master that does not answer for a second is
/// replaced within a few more; on a busy machine that may befall a healthy one too, so ask who it is.
#[derive(Debug)]
pub struct Sentinels {
    /// Master and replica; which is which changes.
    stores: Vec<Server>,
    sentinels: Vec<Server>,
}

// === Its life ===

impl Sentinels {
    /// Starts all of them and waits until the sentinels know each other and both stores.
    ///
    /// # Errors
    /// What is missing on this machine, or what they could not agree on.
    pub async fn start() -> Result<Self, String> {
        let stores = try_join_all((0..2).map(|_| Server::start(Options::default()))).await?;
        let master = stores[0].port().to_string();
        stores[1].ask::<()>(&["REPLICAOF", "127.0.0.1", &master]).await?;
        // Sentinels ask a master for its replicas at once, and then only every ten seconds.
        let patience = Patience::with("a replica");
        while let Err(reason) = linked(&stores[1]).await {
            patience.not_yet(reason).await?;
        }
        let lines = format!(
            "sentinel monitor mymaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds mymaster 1000\n\
             sentinel failover-timeout mymaster 5000\n"
        );
        let sentinels = try_join_all((0..SENTINELS).map(|_| Server::start_sentinel(&lines))).await?;
        let all = Self { stores, sentinels };
        for sentinel in &all.sentinels {
            quicken(sentinel).await;
        }
        all.wait_ok().await?;
        Ok(all)
    }

    /// SIGKILL for the master, whichever it is. Returns its port when the process is gone.
    ///
    /// # Errors
    /// If no sentinel knows a master that runs.
    pub async fn kill_master(&mut self) -> Result<u16, String> {
        let port = self.master_port().await?;
        self.stores.iter_mut().filter(|store| store.port() == port).for_each(Server::kill);
        Ok(port)
    }

    /// Starts the store again that was killed. It thinks that it is the master until the sentinels tell it otherwise,
    /// some ten seconds later.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart_old_master(&mut self) -> Result<(), String> {
        for store in self.stores.iter_mut().filter(|store| store.pid().is_none()) {
            store.restart().await?;
        }
        Ok(())
    }

    /// SIGKILL for a sentinel; two are enough to decide.
    pub fn kill_sentinel(&mut self, index: usize) {
        self.sentinels[index].kill();
    }

    /// Starts a sentinel again; it knows what it knew.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart_sentinel(&mut self, index: usize) -> Result<(), String> {
        self.sentinels[index].restart().await?;
        quicken(&self.sentinels[index]).await;
        Ok(())
    }
}

// === Faults ===

impl Sentinels {
    /// Has the sentinels make the replica the master though nothing is wrong. Returns the new master's port when all
    /// of them say so; the old one thinks that it is the master, and takes writes, for some ten seconds more.
    ///
    /// # Errors
    /// What was not agreed on.
    pub async fn fail_over(&self) -> Result<u16, String> {
        let old = self.master_port().await?;
        let sentinel = self.watching().next().ok_or("no sentinel runs")?;
        // Refused as long as the replica has not been heard of for a while.
        let patience = Patience::with("a failover");
        while let Err(reason) = sentinel.ask::<()>(&["SENTINEL", "FAILOVER", "mymaster"]).await {
            patience.not_yet(reason).await?;
        }
        self.wait_new_master(old).await
    }

    /// From now on the replica gets nothing: what is written is lost with the master, what was written before is
    /// not. Returns when the replica is cut off. Sentinels do not promote one that was cut off for more than ten
    /// seconds.
    ///
    /// It is not stopped, since a stopped one finds in its sockets, when it goes on, what was written meanwhile.
    ///
    /// # Errors
    /// What the master says.
    pub async fn pause_replication(&self) -> Result<(), String> {
        let master = self.master().await?;
        self.wait_replicated(master).await?;
        // It will be back at once, and find that it may not.
        master.ask::<()>(&["ACL", "SETUSER", "default", "-psync", "-sync"]).await?;
        master.ask::<u64>(&["CLIENT", "KILL", "TYPE", "replica"]).await?;
        let replicas = master.info("connected_slaves").await;
        ensure(replicas.as_deref() == Some("0"), || format!("the master still has {replicas:?} replicas"))
    }

    async fn wait_replicated(&self, master: &Server) -> Result<(), String> {
        let written = offset(master, "master_repl_offset").await?;
        for replica in
            self.stores.iter().filter(|store| store.pid().is_some() && store.port() != master.port())
        {
            let patience = Patience::with("a replica that has everything");
            while offset(replica, "slave_repl_offset").await? < written {
                patience.not_yet(format!("port {} has not read up to {written}", replica.port())).await?;
            }
        }
        Ok(())
    }

    /// The replica gets what it missed, if it is one still.
    ///
    /// # Errors
    /// What the stores say.
    pub async fn resume_replication(&self) -> Result<(), String> {
        for store in self.stores.iter().filter(|store| store.pid().is_some()) {
            // SYNC stays refused: a replica that was just refused PSYNC would fall back on it, and those who do
            // are never heard to have read anything.
            store.ask::<()>(&["ACL", "SETUSER", "default", "+psync"]).await?;
        }
        Ok(())
    }
}

// === Questions ===

impl Sentinels {
    /// What a client is told to reach the master.
    pub fn dsn(&self) -> String {
        let addresses: Vec<_> =
            self.sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
        format!("redis+sentinel://{}/mymaster/0", addresses.join(","))
    }

    /// The two stores, whichever is the master.
    pub fn stores(&self) -> &[Server] {
        &self.stores
    }

    /// The three sentinels.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The port of the master, by the word of the first sentinel that runs.
    ///
    /// # Errors
    /// If none answers.
    pub async fn master_port(&self) -> Result<u16, String> {
        master_port(self.watching().next().ok_or("no sentinel runs")?).await
    }

    /// The master, by the word of the same.
    ///
    /// # Errors
    /// If none answers.
    pub async fn master(&self) -> Result<&Server, String> {
        let port = self.master_port().await?;
        self.stores
            .iter()
            .find(|store| store.port() == port)
            .ok_or_else(|| format!("no store has port {port}"))
    }

    /// Waits until all running sentinels name the same master, another one than this, and it takes writes.
    ///
    /// # Errors
    /// What is not so after a minute.
    pub async fn wait_new_master(&self, old: u16) -> Result<u16, String> {
        let patience = Patience::with("a new master");
        loop {
            match self.agreed().await {
                Ok(new) if new.port() != old => return Ok(new.port()),
                Ok(_) => patience.not_yet(format!("{old} is still the master")).await?,
                Err(reason) => patience.not_yet(reason).await?,
            }
        }
    }

    /// Waits until all running sentinels know each other, the same master and its replica, and the replica has what
    /// the master has; with one store killed, until the other one is the master.
    ///
    /// # Errors
    /// What is not so after a minute.
    pub async fn wait_ok(&self) -> Result<(), String> {
        let patience = Patience::with("sentinels that agree");
        while let Err(reason) = self.check().await {
            patience.not_yet(reason).await?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), String> {
        let master = self.agreed().await?.port();
        for sentinel in self.watching() {
            self.ready(sentinel).await?;
        }
        for replica in self.stores.iter().filter(|store| store.pid().is_some() && store.port() != master) {
            linked(replica).await?;
        }
        Ok(())
    }

    /// The master that all running sentinels name, if it is one.
    async fn agreed(&self) -> Result<&Server, String> {
        let ports = try_join_all(self.watching().map(master_port)).await?;
        ensure(ports.windows(2).all(|pair| pair[0] == pair[1]), || format!("they name {ports:?}"))?;
        let master = self.master().await?;
        let role = master.info("role").await;
        ensure(role.as_deref() == Some("master"), || format!("port {} is {role:?}", master.port()))?;
        Ok(master)
    }

    /// Whether a sentinel is ready to replace the master, if both stores run.
    async fn ready(&self, sentinel: &Server) -> Result<(), String> {
        type Fields = HashMap<String, String>;
        let master: Fields = sentinel.ask(&["SENTINEL", "MASTER", "mymaster"]).await?;
        let replicas: Vec<Fields> = sentinel.ask(&["SENTINEL", "REPLICAS", "mymaster"]).await?;
        let is =
            |fields: &Fields, field: &str, value: &str| fields.get(field).is_some_and(|have| have == value);
        let knows =
            is(&master, "flags", "master") && is(&master, "num-other-sentinels", "2") && replicas.len() == 1;
        ensure(knows, || format!("port {} knows {master:?}", sentinel.port()))?;
        let down = self.stores.iter().any(|store| store.pid().is_none());
        let well = replicas
            .iter()
            .all(|fields| is(fields, "flags", "slave") && is(fields, "master-link-status", "ok"));
        ensure(down || well, || format!("port {} sees {replicas:?}", sentinel.port()))
    }

    fn watching(&self) -> impl Iterator<Item = &Server> {
        self.sentinels.iter().filter(|sentinel| sentinel.pid().is_some())
    }
}

/// Lets a sentinel look more often, and pause less long after it was not scheduled for two seconds. One that looks
/// once a second and has a second's patience takes a new master for dead at times, before it has met it. Servers
/// before 7.0 cannot do this: with them all takes its time.
async fn quicken(sentinel: &Server) {
    let times = "PING-PERIOD 500 INFO-PERIOD 500 PUBLISH-PERIOD 500 TILT-PERIOD 2000".split(' ');
    let command: Vec<_> = ["SENTINEL", "DEBUG"].into_iter().chain(times).collect();
    let _ = sentinel.send(&command).await;
}

async fn master_port(sentinel: &Server) -> Result<u16, String> {
    let address: (String, u16) = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]).await?;
    Ok(address.1)
}

/// Whether a replica has what its master has.
async fn linked(replica: &Server) -> Result<(), String> {
    let link = replica.info("master_link_status").await;
    ensure(link.as_deref() == Some("up"), || {
        format!("the link of port {} to its master is {link:?}", replica.port())
    })
}

/// How much a store has written, or read from its master.
async fn offset(store: &Server, field: &str) -> Result<u64, String> {
    let offset = store.info(field).await.and_then(|offset| offset.parse().ok());
    offset.ok_or_else(|| format!("port {} has no {field}", store.port()))
}
