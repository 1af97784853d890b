//! How much an agent asks of its Prometheus.

use crate::day::Host;
use crate::smtp::SmtpServer;

const TARGETS: &str = r#"
timezone = "UTC"
host = "web1"
state_dir = "{root}/state"
listen = "127.0.0.1:0"

[notify.admin]
type = "email"
smtp = "{smtp}"
from = "backup@example.org"
to = ["admin@example.org"]
"#;

/// Everything a job can have: a schedule, a limit, three components, a copy at each further target.
const JOB: &str = r#"
[job.NAME]
schedule = "0 3 * * *"
targets = ["local", "nas", "offsite"]
max_runtime = "2h"
copy_wait = "1m"
source.application = { type = "files", paths = ["{root}/data"] }
source.database = { type = "command", command = ["{root}/dump"] }
source.mail = { type = "command", command = ["{root}/mail"] }
"#;

#[test]
fn three_jobs_at_three_targets_are_fewer_than_300_series_of_the_real_daemon() {
    let smtp = SmtpServer::plain();
    let mut config = TARGETS.to_owned();
    for target in ["local", "nas", "offsite"] {
        config += &format!(
            "[target.{target}]\ntype = \"directory\"\npath = \"{{root}}/{target}\"\n\
             template = \"{{job}}/%Y/%m/%d/%H%M\"\n"
        );
    }
    config.extend(["web", "shop", "wiki"].map(|job| JOB.replace("NAME", job)));
    let mut host = Host::new(&config, &smtp);
    host.daemon("00:00:10");
    // Twice, so that there is something usual.
    host.run("03:00:00", "backup --all", 0);
    host.run("04:00:00", "backup --all", 0);
    for target in ["nas", "offsite"] {
        host.run("05:00:00", &format!("verify --job web --target {target}"), 0);
    }
    let text = host.daemon("06:00:00");
    let count = text.lines().filter(|line| !line.starts_with('#')).count();
    for there in [
        "backup_last_verify_success{backup_job=\"web\",target=\"offsite\"} 1",
        "backup_copy_last_success_timestamp_seconds{backup_job=\"wiki\",target=\"nas\"}",
        "backup_source_baseline_bytes{backup_job=\"shop\",component=\"database\"}",
        "backup_health_status{backup_job=\"shop\",check=\"overdue\"} 0",
        "process_resident_memory_bytes",
    ] {
        assert!(
            text.contains(&format!("\n{there}")),
            "{there} is missing: this is not the full case: {text}"
        );
    }
    assert!((200..300).contains(&count), "{count} series");
}
