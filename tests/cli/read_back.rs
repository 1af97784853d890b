//! Where nothing is read back, nobody says it was: the terminal, the log, `show`, mails and pages.

use std::fs;
use std::process::{Command, Stdio};

use crate::port;
use crate::smtp::SmtpServer;
use crate::world::{Guard, TWO, World, until};

const WHY: &str = "not read back: the target has read_back = \"never\"";

/// Two targets, of which one is not read, and somebody who is told of everything.
fn world(unread: &str, server: &SmtpServer) -> World {
    let path = format!("path = \"{{}}/{unread}\"");
    let mail = format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n\
         success = \"always\"\n",
        server.url()
    );
    let world =
        World::new(&format!("{}{mail}", TWO.replace(&path, &format!("{path}\nread_back = \"never\""))));
    fs::create_dir(world.path("nas")).unwrap();
    world
}

/// The newest mail, without its line breaks.
fn mail(server: &SmtpServer) -> String {
    let text = server.mails().last().unwrap().parsed()["text"].as_str().unwrap().to_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The page of the job and that of a run, as the daemon shows them.
fn pages(world: &World, run: &str) -> [String; 2] {
    let port = port::free();
    let listen = format!("listen = \"127.0.0.1:{port}\"");
    world.write("config.toml", &world.read("config.toml").replace("listen = \"127.0.0.1:0\"", &listen));
    let mut daemon = world.program();
    daemon.args(["--config", "config.toml", "run"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _daemon = Guard(daemon.spawn().unwrap());
    let fetch = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        let out = Command::new("curl").args(["-sf", "--noproxy", "*", &url]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().replace("&#34;", "\"").replace("&quot;", "\"")
    };
    until("the pages are there", || !fetch("/").is_empty());
    [fetch("/jobs/web"), fetch(&format!("/runs/{run}"))]
}

#[test]
fn a_further_target_that_is_not_read_is_nowhere_said_to_have_been() {
    let server = SmtpServer::plain();
    let world = world("nas", &server);
    let made = world.agent("backup").exits(0);
    assert!(made.out.contains("  stored and read back: "), "{}", made.out);
    assert!(made.out.contains(&format!("  copied: nas ({WHY})\n")), "{}", made.out);
    let show = world.agent("show latest --log").exits(0).out;
    assert!(show.contains(&format!("\nnot read back at nas: {}\n", &WHY[15..])), "{show}");
    assert!(show.contains(&format!("the copy at nas is there, {WHY}\n")), "{show}");
    let run = world.agent("list --json").json()[0]["run_id"].as_str().unwrap().to_owned();
    let [job, page] = pages(&world, &run);
    let never = format!("never: {}", &WHY[15..]);
    assert_eq!(job.matches(&never).count(), 1, "{job}");
    assert_eq!(page.matches(&format!("stored</span> <span class=\"soft\">{WHY}")).count(), 1, "{page}");

    // Read by a person all the same, it is as good as another.
    world.agent("verify latest --target nas").exits(0);
    let show = world.agent("show latest").exits(0).out;
    assert!(!show.contains("not read back at"), "{show}");
}

#[test]
fn a_first_target_that_is_not_read_has_no_such_step_and_no_verified_backup() {
    let server = SmtpServer::plain();
    let world = world("local", &server);
    let made = world.agent("backup").exits(0);
    assert!(made.out.contains("  stored: ") && made.out.contains(&format!(" ({WHY})\n")), "{}", made.out);
    assert!(made.out.contains("  copied and read back: nas\n"), "{}", made.out);
    let show = world.agent("show latest --log").exits(0).out;
    assert!(show.contains(&format!("the backup at local: {WHY}\n")), "{show}");
    assert!(!show.contains("read-back: done") && !show.contains("read-back 0."), "{show}");
    // The copy was read, so that it is what is verified.
    world.sh("mv nas away");
    world.agent("backup").exits(4);
    let told = mail(&server);
    assert!(told.contains(&format!("local: complete ({WHY})")), "{told}");
    assert!(told.contains("The newest verified backup is ") && told.contains(", at nas ("), "{told}");
    world.sh("mv away nas; mv data elsewhere");
    world.agent("backup").exits(1);
    let told = mail(&server);
    assert!(told.contains("The newest verified backup is ") && told.contains(", at nas ("), "{told}");
}

#[test]
fn a_failure_where_nothing_was_ever_read_names_the_newest_backup_and_says_that() {
    let server = SmtpServer::plain();
    let world = world("local", &server);
    world.write("config.toml", &world.read("config.toml").replace("[\"local\", \"nas\"]", "[\"local\"]"));
    world.agent("backup").exits(0);
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    let told = mail(&server);
    assert!(told.contains("No backup of this job was read back. The newest that was stored is "), "{told}");
    assert!(!told.contains("NOTHING"), "{told}");
}
