//! The tables. A version is one step of SQL; a database is brought forward step by step, never back.

/// Marks the file as ours: "bkag" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x626b_6167;

/// The version this program writes and reads, kept in `user_version`.
pub const VERSION: u32 = STEPS.len() as u32;

/// Step `n` leads from version `n` to `n + 1`. Never change a step that was released; add one.
pub(super) const STEPS: &[&str] = &[V1, V2, V3, V4];

/// What stands at the targets: pins, and copies that write-once storage does not let go yet.
const V4: &str = "
-- Why, when, and by whom a copy is kept: the text of its file PINNED.
ALTER TABLE copies ADD COLUMN pin TEXT;
-- Whether the target is known to have that file; where this is not as `pinned` says, it is still to be told.
ALTER TABLE copies ADD COLUMN pin_stored INTEGER NOT NULL DEFAULT 0;
CREATE INDEX copies_unstored_pins ON copies (target) WHERE pinned <> pin_stored;
ALTER TABLE copies ADD COLUMN retained_until INTEGER;
";

/// Copies that a person keeps, whatever retention says.
const V3: &str = "ALTER TABLE copies ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0";

const V1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- In the transaction that makes the tables, so that nobody ever sees a database without it.
INSERT INTO meta VALUES ('instance_id', lower(hex(randomblob(16))));

CREATE TABLE jobs (
    job                 TEXT PRIMARY KEY,
    first_seen          INTEGER NOT NULL,
    schedule            TEXT,
    schedule_changed_at INTEGER,
    due_before          INTEGER,
    paused_until        INTEGER,
    baseline_ack_at     INTEGER,
    last_occurrence     INTEGER,
    failing_since       INTEGER,
    last_failure_mail   INTEGER,
    last_contention     INTEGER
) STRICT, WITHOUT ROWID;

-- Runs are ordered by seq, not by time: a clock that jumped does not change which run is the last.
CREATE TABLE runs (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id         TEXT NOT NULL UNIQUE,
    job            TEXT NOT NULL,
    started_by     TEXT NOT NULL,
    scheduled_for  INTEGER,
    pid            INTEGER,
    boot_id        TEXT,
    start_ticks    INTEGER,
    started        INTEGER NOT NULL,
    step           TEXT,
    step_since     INTEGER,
    progress       REAL,
    target         TEXT,
    location       TEXT,
    staging        TEXT,
    outcome        TEXT,
    ended          INTEGER,
    degraded       TEXT NOT NULL DEFAULT '[]',
    failed_step    TEXT,
    error          TEXT,
    steps          TEXT NOT NULL DEFAULT '[]',
    source_bytes   INTEGER NOT NULL DEFAULT 0,
    stored_bytes   INTEGER NOT NULL DEFAULT 0,
    components     TEXT NOT NULL DEFAULT '[]',
    warning_counts TEXT NOT NULL DEFAULT '{}',
    warnings       TEXT NOT NULL DEFAULT '[]',
    warnings_total INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX runs_by_job ON runs (job, seq);
CREATE INDEX runs_good ON runs (job, seq) WHERE outcome IN ('success', 'warning');
CREATE INDEX runs_running ON runs (job, seq) WHERE outcome IS NULL;

CREATE TABLE run_logs (
    run_id     TEXT PRIMARY KEY,
    written_at INTEGER NOT NULL,
    text       TEXT NOT NULL
) STRICT;
CREATE INDEX run_logs_by_age ON run_logs (written_at);

-- A row here may outlive its run, and an adopted backup has none.
CREATE TABLE copies (
    run_id        TEXT NOT NULL,
    target        TEXT NOT NULL,
    job           TEXT NOT NULL,
    is_primary    INTEGER NOT NULL,
    status        TEXT NOT NULL,
    location      TEXT,
    bytes         INTEGER NOT NULL DEFAULT 0,
    outcome       TEXT NOT NULL,
    started       INTEGER NOT NULL,
    queued_at     INTEGER NOT NULL,
    created_at    INTEGER,
    verified_at   INTEGER,
    verify_ok     INTEGER,
    expired_at    INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    next_attempt  INTEGER,
    permanent     INTEGER NOT NULL DEFAULT 0,
    last_error    TEXT,
    claimed_until INTEGER,
    claimer       TEXT,
    PRIMARY KEY (run_id, target)
) STRICT;
CREATE INDEX copies_by_job ON copies (job, target, started);
CREATE INDEX copies_present ON copies (job, target, status, started) WHERE status <> 'expired';
CREATE INDEX copies_pending ON copies (next_attempt) WHERE status = 'pending';

-- What is known of a job at a target even after the copies it came from are gone.
CREATE TABLE job_targets (
    job               TEXT NOT NULL,
    target            TEXT NOT NULL,
    last_copy_success INTEGER,
    last_verify       INTEGER,
    last_verify_ok    INTEGER,
    last_retention    INTEGER,
    retention_error   TEXT,
    PRIMARY KEY (job, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE probes (
    target     TEXT PRIMARY KEY,
    at         INTEGER NOT NULL,
    up         INTEGER NOT NULL,
    size_bytes INTEGER,
    free_bytes INTEGER,
    error      TEXT,
    last_up    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    channel       TEXT NOT NULL,
    job           TEXT,
    run_id        TEXT,
    kind          TEXT NOT NULL,
    recipient     TEXT NOT NULL,
    message_id    TEXT NOT NULL,
    subject       TEXT NOT NULL,
    payload       TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    not_before    INTEGER NOT NULL,
    status        TEXT NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    claimed_until INTEGER,
    last_error    TEXT,
    closed_at     INTEGER,
    detail        TEXT,
    UNIQUE (message_id, channel, recipient)
) STRICT;
CREATE INDEX outbox_pending ON outbox (not_before) WHERE status = 'pending';
CREATE INDEX outbox_by_job ON outbox (job, kind, id);
CREATE INDEX outbox_closed ON outbox (closed_at) WHERE closed_at IS NOT NULL;

CREATE TABLE counters (
    name  TEXT NOT NULL,
    job   TEXT NOT NULL,
    label TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name, job, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE contentions (job TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE INDEX contentions_by_job ON contentions (job, at);

CREATE TABLE health (
    job     TEXT NOT NULL,
    name    TEXT NOT NULL,
    status  TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE facts (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Verification on a schedule, drills, and archives of other programs.
const V2: &str = "
-- What was read back at a target in the last days, against its budget.
CREATE TABLE verify_reads (target TEXT NOT NULL, at INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE INDEX verify_reads_by_target ON verify_reads (target, at);

CREATE TABLE drills (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    job         TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    target      TEXT NOT NULL,
    started     INTEGER NOT NULL,
    folder      TEXT NOT NULL,
    pid         INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    start_ticks INTEGER,
    ended       INTEGER,
    ok          INTEGER,
    restore_ms  INTEGER,
    bytes       INTEGER NOT NULL DEFAULT 0,
    entries     INTEGER NOT NULL DEFAULT 0,
    compared    INTEGER NOT NULL DEFAULT 0,
    changed     INTEGER NOT NULL DEFAULT 0,
    checks      INTEGER NOT NULL DEFAULT 0,
    problems    TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX drills_by_job ON drills (job, id);

-- Since when a job has had this schedule of drills: a new one is not overdue from its first minute.
CREATE TABLE drill_plans (
    job      TEXT PRIMARY KEY,
    schedule TEXT NOT NULL,
    since    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Archives that another program made: no manifest says what they should be, so this does.
ALTER TABLE copies ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
CREATE TABLE imported_files (
    run_id TEXT NOT NULL,
    target TEXT NOT NULL,
    file   TEXT NOT NULL,
    bytes  INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (run_id, target, file)
) STRICT, WITHOUT ROWID;
";
