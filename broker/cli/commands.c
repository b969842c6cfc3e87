/*
 * The table of commands and what --help says of each; see cli.h.
 *
 * The first line of a help text is what `muster --help` lists. tests/integration/test_cli.py holds
 * every text against the options that the command takes and against the manual page.
 */
#include "cli/cli.h"

static const char dev_help[] =
    "Run a private installation for trying things out.\n"
    "\n"
    "Starts nats-server (operator mode), PostgreSQL and musterd on free ports of 127.0.0.1, with "
    "the tenant `default`, and prints\n"
    "URLs and credentials. It runs until Ctrl-C; its servers end with it, the data stays for the "
    "next start.\n"
    "\n"
    "  --dir DIR    where it lives (default: ./.muster, as root /var/lib/muster/dev)\n"
    "  --reset      begin anew: remove what earlier runs left\n"
    "  --no-broker  no musterd: you start one, with plugins of your own\n"
    "  --tls        NATS, PostgreSQL and the broker's pages by TLS; DIR/tls/ca.pem is what clients must trust\n";

static const char nats_config_help[] =
    "Write nats-server's configuration, keys and the brokers' credentials.\n"
    "\n"
    "Makes DIR/nats-server.conf (operator mode, JetStream on), DIR/keys (operator, account and "
    "signing seeds, mode 0600),\n"
    "DIR/broker.creds and DIR/system.creds. Run again it keeps keys and credentials and changes "
    "what is given.\n"
    "\n"
    "  --dir DIR       the folder to write into\n"
    "  --listen ADDR   where nats-server listens (default: 127.0.0.1:4222)\n"
    "  --http ADDR     open the monitoring port; an empty ADDR closes it again\n"
    "  --store DIR     JetStream's folder (default: jetstream in the folder of --dir)\n"
    "  --static        users with passwords instead of operator mode\n"
    "  --tls-cert FILE, --tls-key FILE\n"
    "                  have the server speak TLS alone; an empty --tls-cert ends that\n"
    "  --tls-ca FILE   the certificates that the brokers, and clients, are to trust\n"
    "  --tls-verify    clients must show a certificate of --tls-ca; an empty --tls-ca ends that\n"
    "  --callout       let clients in by tokens that a broker's plugin accepts (nats-server 2.10 or "
    "newer): writes DIR/callout.nk,\n"
    "                  the brokers' login in DIR/callout.creds (or .pass), and DIR/sentinel.creds, which "
    "everybody may have and\n"
    "                  clients use beside their token; kept by later runs\n"
    "  --no-callout    the other way round\n";

static const char migrate_help[] =
    "Bring a database to this version: roles, schema muster, publications.\n"
    "\n"
    "MUSTER_POSTGRES_ADMIN_DSN is a superuser's connection string. Each migration is a transaction "
    "of its own; brokers of the\n"
    "previous version go on working. Each run also puts right roles, privileges and publications, which "
    "a restore loses\n"
    "(`always` in the list).\n"
    "\n"
    "  --status     change nothing; list what is applied and what is pending\n"
    "  --json       with --status: as JSON\n"
    "  --tenant T   with --status: changes nothing, the schema is the same for every tenant\n";

static const char publish_help[] =
    "Send the row changes of tables to their tenants.\n"
    "\n"
    "Adds each [schema.]TABLE to the publication, grants SELECT on it to muster_broker, checks "
    "that its replica identity names the\n"
    "tenant, and keeps the settings in muster.tables. All tables or none; without an option the "
    "column is tenant_id. Partitions\n"
    "come with their table; children by inheritance do not.\n"
    "\n"
    "  --tenant-column C   the column that names the tenant of a row\n"
    "  --tenant T          all rows belong to this tenant\n"
    "  --owner-column C    the column that names the end user who may read the row\n"
    "  --subject-key       put the row's key into the subject\n";

static const char tenant_help[] =
    "Add, list and remove tenants, set their limits, and make their roles of PostgreSQL.\n"
    "\n"
    "  add NAME...                 make tenants\n"
    "    --history off|r1|r3       replicas of the stream of what its agents say (default: r1)\n"
    "    --encoding json|msgpack   of its events and changes (default: json)\n"
    "  list                        every tenant\n"
    "    --tenant T                this one only\n"
    "    --json                    as JSON\n"
    "  rm NAME                     remove a tenant, its credentials and its rows in Muster's tables\n"
    "    --force                   also while credentials are in use\n"
    "  limits NAME [KEY=VALUE...]  show or set limits; `muster tenant limits --help` lists the "
    "keys\n"
    "    --json                    as JSON, as it is without\n"
    "  role NAME                   make the role that sees the tenant's rows, to GRANT to others;\n"
    "                              needs MUSTER_POSTGRES_ADMIN_DSN\n"
    "    --out FILE                let it log in: a new password, in a connection string in FILE\n"
    "    --connections N           at most so many of them (default: any number)\n"
    "    --adopt                   take a role of that name that this database has not made\n"
    "\n"
    "Brokers follow at once.\n";

static const char agent_help[] =
    "Give agents credentials, and take them away.\n"
    "\n"
    "  add TENANT AGENT...      make credentials\n"
    "    --role R               agent, observer, user, human, admin, operator or plugin (default: "
    "agent)\n"
    "    --expires 30d          how long they hold (default: for ever)\n"
    "    --groups G,...         of groups only these (default: all that the role may, here and below)\n"
    "    --tables S.T,...       of row changes only those of these tables; S.* is a schema\n"
    "    --verbs S.V,...        of services only these verbs; S.* is all of one\n"
    "    --out FILE             where they go (default: stdout); of several agents: a folder\n"
    "    --token                tokens for clients that log in by the plugin auth, in place of creds\n"
    "  rotate TENANT AGENT...   make new ones and put the old ones out of use; --expires, --out\n"
    "  revoke TENANT AGENT...   put them out of use, and cut who is connected\n"
    "  list [TENANT]            who has credentials, and whether they still hold\n"
    "    --tenant T             the same as TENANT\n"
    "    --json                 as JSON\n"
    "\n"
    "The signing keys are found by nats.keys or MUSTER_NATS_KEYS; tokens need none.\n";

static const char plugin_help[] =
    "Show the configured plugins; begin a new one; check a plugin's file.\n"
    "\n"
    "  list          instance, plugin, version, ABI, lanes, file, capabilities and verbs of each, "
    "and why a file does not load\n"
    "  list NAME     one instance or plugin, with the table of its options\n"
    "    --json      as JSON; the options as JSON Schema\n"
    "    --tenant T  changes nothing, plugins are the same for every tenant\n"
    "  asyncapi      the AsyncAPI document of the broker's services and of those of the configured plugins\n"
    "  role NAME     make the role of a plugin in a child in PostgreSQL, or give it another password: "
    "muster_plugin_NAME, which may\n"
    "                connect and no more; grant it what the plugin needs\n"
    "    --out FILE  where its connection string goes, for postgres.dsn_file (default: NAME.dsn)\n"
    "    --connections N  that it may have at once (default: 20)\n"
    "  new NAME      write a plugin that builds and passes its test: source, definition, test, "
    "README, CMake, CI\n"
    "    --dir DIR   where the folder NAME is made (default: here)\n"
    "  check FILE    hold a plugin's file against the contract: tests and a fuzz, each in a process of its own with an empty\n"
    "                environment and bounds on memory and time, but with your rights. Exit code 1 when one failed\n"
    "    --config F  its settings, as they stand below `config:` in muster.yaml; - for stdin\n"
    "    --only T    this test alone; may be given several times\n"
    "    --runs N    how many lives the fuzz makes (default: 50)\n"
    "    --seed N    of bodies and of the fuzz; the same seed makes the same (default: by the clock)\n"
    "    --reproduce SEED  one life of the fuzz again, with its events\n"
    "    --json      as JSON: {\"file\", \"seed\", \"tests\": [{\"name\", \"what\", \"result\", \"took_ms\", \"failures\", "
    "\"skipped\", \"notes\"}],\n"
    "                \"ok\", \"failed\", \"skipped\"}\n"
    "\n"
    "role needs MUSTER_POSTGRES_ADMIN_DSN, a superuser's connection string.\n";

static const char watch_help[] =
    "Show row changes and events while they happen.\n"
    "\n"
    "A line a message: time (UTC), tenant, what happened, key, columns; an update shows the "
    "columns that changed where the old\n"
    "values are known. Gaps in the positions of a channel are told between the lines. Heads "
    "(evt._.head) are left out.\n"
    "\n"
    "  cdc | evt | all    row changes, events, or both (default: all; with --table: cdc)\n"
    "  --tenant T         this tenant only\n"
    "  --table TABLE      row changes of this [schema.]TABLE only; may be given several times\n"
    "  --json             an object a line: {\"subject\", \"headers\", \"body\"}, or {\"notice\"} "
    "for gaps\n"
    "  --count N          end after N messages\n"
    "  --timeout D        end after this time (500ms, 5s, 2m); exit code 1 when --count was not "
    "reached by then\n"
    "\n"
    "Ctrl-C ends it. A lost connection is made again; what was said meanwhile was not heard, and "
    "shows as a gap.\n";

static const char agents_help[] =
    "Show who is present, as the plugin presence says it.\n"
    "\n"
    "  list              a line an agent (default)\n"
    "  show NAME         all that is known of one\n"
    "  count             how many there are in each tenant, and by status\n"
    "  watch             joins, leaves and changes while they happen; its options are --tenant, --json, --count N and\n"
    "                    --timeout D, as muster watch has them\n"
    "  --tenant T        this tenant only (default: all)\n"
    "  --status S        of list and count: online, busy or away\n"
    "  --capability C    of list and count: those that have it\n"
    "  --label KEY=VALUE of list and count: those that have it; may be given several times, for those that have all\n"
    "  --json            as JSON: an array, of count [{\"tenant\", \"count\", \"by_status\"}]\n"
    "\n"
    "Whoever is suspect may be gone, and is shown so in place of its status. The exit code of show is 1 when nobody of that name is\n"
    "present.\n";

static const char tasks_help[] =
    "Show the tasks, try one again, call one off.\n"
    "\n"
    "  list              the newest of each tenant, a line each (default)\n"
    "  show ID           all that is known of one\n"
    "  history ID        every change of its state, the oldest first\n"
    "  retry ID          a new task like this one, which has failed, died, been cancelled or expired\n"
    "  cancel ID         stop it; who runs it is told, and has 30 s\n"
    "  watch             changes of state while they happen; its options are --tenant, --json, --count N and --timeout D, as\n"
    "                    muster watch has them\n"
    "  --tenant T        this tenant only (default: all); retry and cancel need it where several have the id\n"
    "  --state S         of list: those in this state: blocked, scheduled, queued, ...\n"
    "  --agent A         of list: those that this agent holds, held when they ended, or is asked for by name\n"
    "  --limit N         of list: so many of each tenant (default: 100; 0: all)\n"
    "  --reason R        of cancel: why, for those who are told\n"
    "  --json            as JSON: an array, whose objects have the tenant as their first member\n"
    "\n"
    "The exit code of show, history, retry and cancel is 1 when there is no such task, and of retry and cancel when it is\n"
    "refused, too.\n";

static const char runs_help[] =
    "Show the runs of agents, have one tried again, call one off.\n"
    "\n"
    "  list              the newest of each tenant, a line each (default)\n"
    "  show ID           all that is known of one\n"
    "  history ID        every change of its state, the oldest first\n"
    "  retry ID          send one that is escalated to humans back to its agents; of others that is asked by these\n"
    "  cancel ID         call it off while it is pending, in progress or blocked\n"
    "  watch             changes of state while they happen; its options are --tenant, --json, --count N and --timeout D, as\n"
    "                    muster watch has them\n"
    "  --tenant T        this tenant only (default: all); retry and cancel need it where several have the id\n"
    "  --state S         of list: those in this state: pending, in_progress, completed, ...\n"
    "  --agent A         of list: those with this agent_name, as the column AGENT has it; not who is connected\n"
    "  --limit N         of list: so many of each tenant (default: 100; 0: all)\n"
    "  --reason R        of cancel: why, for those who are told\n"
    "  --json            as JSON: an array, whose objects have the tenant as their first member\n"
    "\n"
    "The exit code of show, history, retry and cancel is 1 when there is no such run, and of retry and cancel when it is\n"
    "refused, too.\n";

static const char help_help[] =
    "Show the requests for help, ask one again, withdraw one; or say how a command is used.\n"
    "\n"
    "  list              the newest of each tenant, a line each (default)\n"
    "  show ID           all that is known of one\n"
    "  history ID        every change of its state, the oldest first\n"
    "  retry ID          ask again what ended without an answer that was accepted\n"
    "  cancel ID         withdraw it; the experts are told\n"
    "  watch             changes of state while they happen; its options are --tenant, --json, --count N and --timeout D, as\n"
    "                    muster watch has them\n"
    "  --tenant T        this tenant only (default: all); retry and cancel need it where several have the id\n"
    "  --state S         of list: those in this state: open, offered, claimed, answered, ...\n"
    "  --agent A         of list: those that this agent has asked\n"
    "  --limit N         of list: so many of each tenant (default: 100; 0: all)\n"
    "  --reason R        of cancel: why, for those who are told\n"
    "  --json            as JSON: an array, whose objects have the tenant as their first member\n"
    "\n"
    "`muster help` alone is `muster --help`, and `muster help COMMAND` is `muster COMMAND --help`."
    " The exit code of show, history, retry\n"
    "and cancel is 1 when there is no such request, and of retry and cancel when it is refused, too.\n";

static const char doctor_help[] =
    "Look at the whole installation, say what is broken and what mends it.\n"
    "\n"
    "Checks configuration and plugins, NATS (connection, credentials, JetStream, streams), "
    "PostgreSQL (connection, wal_level,\n"
    "role, migrations, publications, slots, published tables), the broker's /readyz, and the "
    "clocks. Where nats.keys or\n"
    "MUSTER_NATS_KEYS names the keys, a user of each role is made for a minute and tries what must be "
    "refused. Each line begins\n"
    "with ok, hint or broken. The exit code is 1 when something is broken.\n"
    "\n"
    "  --json   as JSON: {\"broken\", \"hints\", \"checks\": [{\"level\", \"what\", \"code\", "
    "\"text\"}]}\n";

const struct cli_command cli_commands[] = {
    {.name = "dev",
     .usage = "[--dir DIR] [--reset] [--no-broker] [--tls]",
     .help = dev_help,
     .run = cmd_dev,
     .without_config = true},
    {.name = "nats-config",
     .usage = "--dir DIR [--listen ADDR] [--http ADDR] [--store DIR] [--static] [--callout | --no-callout]\n"
              "                   [--tls-cert FILE --tls-key FILE [--tls-ca FILE [--tls-verify]]]",
     .help = nats_config_help,
     .run = cmd_nats_config},
    {.name = "migrate",
     .usage = "[--status [--json] [--tenant T]]",
     .help = migrate_help,
     .run = cmd_migrate},
    {.name = "publish",
     .usage = "TABLE... [--tenant-column C | --tenant T] [--owner-column C] [--subject-key]",
     .help = publish_help,
     .run = cmd_publish},
    {.name = "tenant",
     .usage = "add NAME...|list|rm NAME|limits NAME|role NAME [OPTIONS]",
     .help = tenant_help,
     .run = cmd_tenant,
     .own_help = "limits"},
    {.name = "agent",
     .usage = "add|rotate|revoke TENANT AGENT...|list [TENANT] [OPTIONS]",
     .help = agent_help,
     .run = cmd_agent},
    {.name = "plugin",
     .usage = "list [NAME] [--json] [--tenant T]|asyncapi|role NAME [OPTIONS]|new NAME [--dir DIR]|check FILE [OPTIONS]",
     .help = plugin_help,
     .run = cmd_plugin,
     .without_config = true},
    {.name = "watch",
     .usage = "[cdc|evt|all] [--tenant T] [--table TABLE]... [--json] [--count N] [--timeout D]",
     .help = watch_help,
     .run = cmd_watch},
    {.name = "agents",
     .usage = "[list|count] [--tenant T] [--status S] [--capability C] [--label KEY=VALUE]... [--json]\n"
              "       muster agents show NAME [--tenant T] [--json]\n"
              "       muster agents watch [--tenant T] [--json] [--count N] [--timeout D]",
     .help = agents_help,
     .run = cmd_agents},
    {.name = "tasks",
     .usage = "[list] [--tenant T] [--state S] [--agent A] [--limit N] [--json]\n"
              "       muster tasks show|history ID [--tenant T] [--json]\n"
              "       muster tasks retry|cancel ID [--tenant T] [--reason R] [--json]\n"
              "       muster tasks watch [--tenant T] [--json] [--count N] [--timeout D]",
     .help = tasks_help,
     .run = cmd_tasks},
    {.name = "runs",
     .usage = "[list] [--tenant T] [--state S] [--agent A] [--limit N] [--json]\n"
              "       muster runs show|history ID [--tenant T] [--json]\n"
              "       muster runs retry|cancel ID [--tenant T] [--reason R] [--json]\n"
              "       muster runs watch [--tenant T] [--json] [--count N] [--timeout D]",
     .help = runs_help,
     .run = cmd_runs},
    {.name = "help",
     .usage = "[list] [--tenant T] [--state S] [--agent A] [--limit N] [--json]\n"
              "       muster help show|history ID [--tenant T] [--json]\n"
              "       muster help retry|cancel ID [--tenant T] [--reason R] [--json]\n"
              "       muster help watch [--tenant T] [--json] [--count N] [--timeout D]",
     .help = help_help,
     .run = cmd_help},
    {.name = "doctor",
     .usage = "[--json]",
     .help = doctor_help,
     .run = cmd_doctor,
     .without_config = true},
};
const size_t n_cli_commands = sizeof cli_commands / sizeof *cli_commands;
