//! The sources, and what their programs may do wrong.

use crate::world::invariants::Expect;

/// A source and the program that stands in for its dump program.
pub struct Case {
    pub name: &'static str,
    /// Its lines in the configuration. `{stubs}` is the folder of the programs.
    pub lines: &'static str,
    /// The component whose dump the program spoils, in the backup of the real servers.
    pub dump: &'static str,
    /// The program, and what else it answers before it dumps, as a part of a shell script.
    pub programs: &'static [(&'static str, &'static str)],
}

/// The limit in all their lines, which no good dump meets; a program that hangs gets [`SOON`].
pub const LIMIT: &str = "timeout = '10m'";
pub const SOON: &str = "timeout = '2s'";

pub const CASES: &[Case] = &[
    Case {
        name: "mysql",
        lines: "type = 'mysql'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['shop']\ntimeout = '10m'",
        dump: "mysql.sql.zst",
        programs: &[
            ("mariadb", r#"printf 'version\t10.11.19-MariaDB\ncase\t0\ndatabase\tshop\n'; exit 0"#),
            (
                "mariadb-dump",
                r#"[ "$1" = --version ] && { echo "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB"; exit 0; }
                   cat "${1#--defaults-file=}" >&2"#,
            ),
        ],
    },
    Case {
        name: "postgres",
        lines: "type = 'postgres'\nbin_dir = '{stubs}'\nhost = '127.0.0.1'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['shop']\nglobals = false\ntimeout = '10m'",
        dump: "postgres.shop.pgdump.zst",
        programs: &[
            (
                "psql",
                r#"[ "$1" = --version ] && { echo "psql (PostgreSQL) 15.1"; exit 0; }
                   printf 'version:15.1\0database:shop\0'; exit 0"#,
            ),
            ("pg_dumpall", r#"echo "pg_dumpall (PostgreSQL) 15.1"; exit 0"#),
            (
                "pg_dump",
                r#"[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 15.1"; exit 0; }
                   cat "$PGPASSFILE" >&2"#,
            ),
        ],
    },
    Case {
        name: "globals",
        lines: "type = 'postgres'\nbin_dir = '{stubs}'\nhost = '127.0.0.1'\nuser = 'backup'\npassword_file = '{secret}'\ndatabases = ['none*']\nallow_empty = true\ntimeout = '10m'",
        dump: "postgres.globals.sql.zst",
        programs: &[
            ("psql", r#"printf 'version:15.1\0database:shop\0'; exit 0"#),
            ("pg_dump", r#"echo "pg_dump (PostgreSQL) 15.1"; exit 0"#),
            (
                "pg_dumpall",
                r#"[ "$1" = --version ] && { echo "pg_dumpall (PostgreSQL) 15.1"; exit 0; }
                   cat "$PGPASSFILE" >&2"#,
            ),
        ],
    },
    Case {
        name: "redis",
        lines: "type = 'redis'\nprogram = '{stubs}/redis-cli'\npassword_file = '{secret}'\ntimeout = '10m'",
        dump: "redis.rdb.zst",
        programs: &[(
            "redis-cli",
            r#"case "$*" in *INFO) printf 'redis_version:7.0.15\r\nrole:master\r\nloading:0\r\n'; exit 0;; esac
               echo "$REDISCLI_AUTH" >&2"#,
        )],
    },
    Case {
        name: "marked",
        lines: "type = 'command'\ncommand = ['dump']\nextension = 'ldif'\nend_marker = '# end'\nenv_file = { TOKEN = '{secret}' }\ntimeout = '10m'",
        dump: "command.ldif.zst",
        programs: &[("dump", r#"echo "$TOKEN" >&2"#)],
    },
    Case {
        name: "checked",
        lines: "type = 'command'\ncommand = ['dump']\nextension = 'ldif'\ncheck = ['grep', '-q', '^# end$']\nenv_file = { TOKEN = '{secret}' }\ntimeout = '10m'",
        dump: "command.ldif.zst",
        programs: &[("dump", r#"echo "$TOKEN" >&2"#)],
    },
];

/// What the program does with a good dump, as a part of a shell script; the exit code of the run; what its
/// error says.
pub struct Fault {
    pub name: &'static str,
    pub script: &'static str,
    pub expect: Expect,
    pub says: &'static [&'static str],
}

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "exits with another code than 0",
        script: "cat $good; exit 3",
        expect: Expect::Failure,
        says: &["exit code 3"],
    },
    Fault {
        name: "is killed by a signal",
        script: "cat $half; kill -KILL $$",
        expect: Expect::Failure,
        says: &["SIGKILL"],
    },
    Fault {
        name: "ends well with half a dump",
        script: "cat $half",
        expect: Expect::Failure,
        says: &["cut off", "not whole"],
    },
    Fault {
        name: "ends well with all but the last line",
        script: "head -c -60 $good",
        expect: Expect::Failure,
        says: &["cut off", "not whole"],
    },
    Fault {
        name: "hangs, and so does its child",
        script: "cat $half; sleep 600 & echo $! >$pids; echo $$ >>$pids; wait",
        expect: Expect::Failure,
        says: &["had not finished after 2s"],
    },
    Fault {
        name: "writes nothing and ends well",
        script: ":",
        expect: Expect::Failure,
        says: &["wrote nothing"],
    },
    Fault {
        name: "fills standard error and ends well",
        script: "yes 'warning: this table is odd' | head -c 20000000 >&2; cat $good",
        expect: Expect::Success,
        says: &[],
    },
];
