//! Damage that reading back finds is told once, and so is its end.

use super::config;
use super::http::HttpServer;
use super::smtp::SmtpServer;
use super::world::World;

#[test]
fn damage_of_a_copy_is_told_once_and_that_it_is_whole_again_as_well() {
    let (mail, server) = (SmtpServer::plain(), HttpServer::plain());
    let world = World::new(&config(&format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"b@example.org\"\nto = [\"a@example.org\"]\n\
         [notify.hook]\ntype = \"webhook\"\nurl = \"{}\"\n[notify.deaf]\ntype = \"webhook\"\nurl = \"{}\"\non = [\"failure\"]\n\
         [notify.switch]\ntype = \"ping\"\nurl = \"{}\"\non = [\"success\"]\n",
        mail.url(),
        server.url("/hook"),
        server.url("/deaf"),
        server.url("/ping")
    )));
    world.agent("backup").exits(0);
    let run = world.agent("list --json").json()[0]["run_id"].as_str().unwrap().to_owned();
    let verify = format!("verify {run}");
    world.agent(&verify).exits(0);
    assert_eq!((mail.mails().len(), server.lines()), (0, vec![server.lines()[0].clone()]));
    let pings = server.requests().len();

    let archive = world.backups("local")[0].join("application.tar.zst").display().to_string();
    let flip = format!(
        "python3 -c \"p='{archive}'; b=bytearray(open(p,'rb').read()); b[100]^=1; open(p,'wb').write(b)\""
    );
    world.sh(&flip);
    world.agent(&verify).exits(1);
    world.agent(&verify).exits(1);
    world.agent("tend").exits(0);
    let mails = mail.mails();
    assert_eq!(mails.len(), 1, "it is told once");
    let subject = mails[0].header("Subject");
    assert!(
        subject.starts_with("[backup-verify] web on web1: the backup of ")
            && subject.contains(" at local is damaged"),
        "{subject}"
    );
    assert_eq!(mails[0].header("X-Backup-Agent-Kind"), "verify");
    let text = mails[0].parsed()["text"].as_str().unwrap().to_owned();
    for part in ["application.tar.zst has digest", "NOTHING: no other backup", "smartctl", &run] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let told: Vec<_> = server.requests()[pings..].to_vec();
    assert_eq!(told.iter().map(|r| r.target.as_str()).collect::<Vec<_>>(), ["/hook"]);
    let json = told[0].json();
    assert_eq!((json["kind"].as_str(), json["severity"].as_str()), (Some("verify"), Some("critical")));
    assert_eq!(json["verify"]["ok"], false);
    assert_eq!(json["verify"]["target"], "local");

    // A good run says nothing about it, and the next damage of another kind is not hidden by it.
    world.agent("backup").exits(0);
    assert_eq!(mail.mails().len(), 1);
    world.sh(&flip);
    world.agent(&verify).exits(0);
    world.agent(&verify).exits(0);
    let mails = mail.mails();
    assert_eq!(mails.len(), 2);
    let subject = mails[1].header("Subject");
    assert!(
        subject.starts_with("[backup-recovery] web on web1: ") && subject.contains("whole again"),
        "{subject}"
    );

    // And damage that comes again is news again.
    world.sh(&flip);
    world.agent(&verify).exits(1);
    assert_eq!(mail.mails().len(), 3);
    let parsed = mail.mails()[2].parsed();
    let text = parsed["text"].as_str().unwrap();
    assert!(text.contains("The newest backup that was read back and found good is"), "{text}");
}
