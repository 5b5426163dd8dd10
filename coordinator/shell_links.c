/* Links and messages in. A peer that breaks the protocol loses its link, with a line in the log that says how. */
#include "coordinator/shell.h"

#include <stdlib.h>
#include <string.h>

#include "base/magnitude.h"

#define ASKERS_MAX 8                      /* tokens that ask at once */
#define ANSWERS_MAX (64u << 20)

static struct member *member_of(struct shell *s, const struct link *link)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (s->member[i].link == link)
            return &s->member[i];
    return NULL;
}

static void refuse(struct shell *s, struct link *link, const char *what)
{
    char who[120];
    shell_who(s, link_peer(link)->who, who);
    log_warn_few(&s->log, &s->refused, "%s %s: its link is closed", who, what);
    link_close(link);
}

static bool visits(const struct shell *s, unsigned site) { return s->config.visiting >> site & 1; }

/* ---- joining ---- */
/* The first declaration of a rank at a site that stays is everyone's; those of the others must describe the same data. */
static int take_declaration(struct shell *s, const struct msg_join *m, const uint8_t *payload, size_t size, struct err *err)
{
    char who[120];
    struct declaration d;
    int rc = 0;
    TRY(declaration_decode(&d, payload, size, err));
    shell_who(s, m->who, who);
    if (layout_hash(&d.layout) != m->layout_hash)
        rc = err_set(err, ERR_CORRUPT, "declares a model that does not fit its hash");
    else if (s->declaration_bytes && strcmp(d.data_sha256, s->declaration.data_sha256) != 0)
        rc = err_set(err, ERR_JOB, "%s reads other training data (sha256 %.12s) than %s (sha256 %.12s): every site needs the same files", who, d.data_sha256,
                     s->declared_by, s->declaration.data_sha256);
    else if (s->declaration_bytes && layout_hash(&d.layout) != layout_hash(&s->declaration.layout))
        rc = err_set(err, ERR_JOB, "%s has another model than %s: every site needs the same spec and program", who, s->declared_by);
    if (rc < 0 || s->declaration_bytes) {
        declaration_fini(&d);
        return rc;
    }
    s->declaration_bytes = malloc(size);
    CHECK(s->declaration_bytes != NULL);
    memcpy(s->declaration_bytes, payload, size);
    s->declaration_size = size;
    s->declaration = d;
    snprintf(s->declared_by, sizeof s->declared_by, "%s", who);
    return 0;
}

/* A site that visits is sent away instead. */
static void fail_job(struct shell *s, struct process_id who, int code, int exit_code, const char *text)
{
    struct msg_failed m = {.who = who, .code = code};
    snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, text);
    core_on_failed(s->core, loop_now_ms(s->loop), &m, s->out);
    if (core_phase(s->core) == CORE_FAILED)
        s->failed_code = exit_code;
}

/* A process that a newer one has replaced may still speak, but not end the job, nor take its successor's place. */
static bool is_current(const struct shell *s, struct process_id who)
{
    const struct view *v = core_view(s->core);
    if (who.role == ROLE_PS)
        return who.index < v->slot_count && v->slot[who.index].site == who.site && v->slot[who.index].instance == who.instance;
    return who.role != ROLE_WORKER || (who.site < v->site_count && v->gang[who.site].incarnation == who.instance);
}

static void admit(struct shell *s, struct member *me, const struct msg_join *m)
{
    char who[120];
    struct member *old = shell_member(s, m->who);
    if (old && old != me) {               /* a broken link that nobody has noticed yet */
        struct link *stale = old->link;
        *old = (struct member){0};
        link_close(stale);
    }
    me->joined = true;
    me->left = false;
    if (!is_current(s, m->who))           /* the core puts it out */
        return;
    if (m->who.role == ROLE_WORKER && m->who.index < LANES_MAX) {
        if (s->joined[m->who.site].incarnation != m->who.instance)
            s->joined[m->who.site].ranks = 0;
        s->joined[m->who.site].incarnation = m->who.instance;
        s->joined[m->who.site].ranks |= 1ull << m->who.index;
    }
    if (m->who.role == ROLE_PS && m->who.index < SLOTS_LIMIT) {
        struct slot_address *a = &s->address[m->who.index];
        a->instance = m->who.instance;
        memcpy(a->address_unix, m->address_unix, sizeof a->address_unix);
        memcpy(a->address_tls, m->address_tls, sizeof a->address_tls);
    }
    if (m->who.role == ROLE_WORKER && m->who.index < LANES_MAX) {
        struct rank_address *a = &s->rank[m->who.site][m->who.index];
        a->instance = m->who.instance;
        a->host = m->host;
        memcpy(a->address_tls, m->address_tls, sizeof a->address_tls);
    }
    shell_who(s, m->who, who);
    restarts_back(s->restarts, who, loop_now_ms(s->loop));
    if (m->who.role == ROLE_AGENT && s->was_lost[m->who.site] >> m->who.index & 1) {
        s->was_lost[m->who.site] &= ~(1ull << m->who.index);
        shell_event(s, "back", who, core_round(s->core), "joined again");
    }
}

/* Once all ranks of a site's present launch have joined, each is told where the others are; one that joins again over a new link is told again. */
static void tell_gang(struct shell *s, struct process_id joined)
{
    const struct view_gang *g = &core_view(s->core)->gang[joined.site];
    if (joined.role != ROLE_WORKER || joined.instance != g->incarnation || g->ranks > LANES_MAX)
        return;
    struct msg_gang *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    *m = (struct msg_gang){.site = joined.site, .incarnation = g->incarnation, .rank_count = g->ranks};
    bool whole = true;
    for (unsigned r = 0; r < g->ranks; r++) {
        const struct rank_address *a = &s->rank[joined.site][r];
        whole = whole && a->instance == g->incarnation;
        m->host[r] = a->host;
        memcpy(m->address_tls[r], a->address_tls, ADDRESS_LIMIT);
    }
    for (unsigned i = 0; i < MEMBERS_MAX && whole; i++) {
        struct member *to = &s->member[i];
        struct err err = ERR_INIT;
        bool rank = to->link && to->joined && to->who.role == ROLE_WORKER && to->who.site == joined.site && to->who.instance == g->incarnation;
        if (rank && link_send(to->link, MSG_GANG, core_view(s->core)->number, m, NULL, 0, &err) < 0)
            log_warn(&s->log, "%s", err.text);
    }
    free(m);
}

/* Whether the core has something to do. */
static bool on_join(struct shell *s, struct member *me, const struct msg_join *m, const uint8_t *payload, size_t size)
{
    struct err err = ERR_INIT;
    if (!shell_same(m->who, me->who) || m->who.site >= s->job.spec.site_count) {
        refuse(s, me->link, "joins as another than it said hello");
        return false;
    }
    if (m->who.role == ROLE_AGENT && m->who.index >= s->job.spec.sites[m->who.site].nodes) {
        refuse(s, me->link, "is of a node that its site does not have");
        return false;
    }
    if (m->who.role == ROLE_WORKER && !s->declaration_bytes && visits(s, m->who.site)) {
        log_info(&s->log, "a rank of site %s comes before any of a site that stays: it may join after one", s->job.spec.sites[m->who.site].name);
        link_close(me->link);             /* it dials again */
        return false;
    }
    if (m->who.role == ROLE_WORKER && take_declaration(s, m, payload, size, &err) < 0) {
        if (err.code == ERR_JOB)
            fail_job(s, m->who, err.code, err_exit_code(err.code), err.text);
        else
            refuse(s, me->link, err.text);
        return err.code == ERR_JOB;
    }
    admit(s, me, m);
    if (m->who.role == ROLE_AGENT) {
        core_on_brings(s->core, loop_now_ms(s->loop), m->who.site, me->brings, s->out);
        shell_run(s);
    }
    core_on_join(s->core, loop_now_ms(s->loop), m, s->out);
    return true;
}

/* ---- messages of members: NULL, or what is wrong with one ---- */
/* A rank that refuses its spec or data before it ever joined would refuse them again. */
static bool cannot_begin(const struct shell *s, const struct msg_exited *m)
{
    struct process_id who = m->who;
    if (who.role != ROLE_WORKER || who.site >= SITES_LIMIT || who.index >= LANES_MAX || m->signal > 0 || !is_current(s, who))
        return false;
    bool joined = s->joined[who.site].incarnation == who.instance && s->joined[who.site].ranks >> who.index & 1;
    return !joined && (m->code == err_exit_code(ERR_USAGE) || m->code == err_exit_code(ERR_JOB));
}

static void on_exported(struct shell *s, const char *who, const struct msg_exited *m)
{
    restarts_back(s->restarts, who, loop_now_ms(s->loop));
    if (!s->exported)
        shell_event(s, "exported", who, core_round(s->core), "%s", m->text);
    s->exported = true;
}

static void on_exited(struct shell *s, struct msg_exited *m)
{
    char who[120];
    if (m->signal > 0)
        snprintf(m->text, sizeof m->text, "killed by signal %d", m->signal);
    else if (!m->text[0] && m->code >= 0)
        snprintf(m->text, sizeof m->text, "ended with code %d", m->code);
    else if (!m->text[0])
        snprintf(m->text, sizeof m->text, "ended while no agent watched");
    shell_who(s, m->who, who);
    if (m->who.role == ROLE_EXPORT && m->who.site == core_export_site(s->core) && m->code == 0 && m->signal <= 0)
        on_exported(s, who, m);
    s->exited = m->who;
    if (cannot_begin(s, m)) {
        char text[TEXT_LIMIT];
        snprintf(text, sizeof text, "%s cannot begin: %.*s", who, (int)sizeof text - 160, m->text);
        fail_job(s, m->who, ERR_JOB, m->code, text);
        return;
    }
    core_on_exited(s->core, loop_now_ms(s->loop), m, s->out);
}

static void on_published(struct shell *s, struct process_id from, const struct msg_published *m)
{
    char who[120];
    shell_who(s, from, who);
    bool known = s->manifest.step == m->step && s->manifest.generation == m->generation;
    if (m->ok)
        shell_event(s, "published", who, m->step, "wrote its copy%s%s", known ? ", manifest sha256 " : "", known ? s->manifest.sha256 : "");
    /* A site may be later than the decision that enough of them have it, and than the end of training. */
    if (m->ok && known && s->report.have_checkpoint && s->report.checkpoint_step == m->step && m->site < REPORT_SITES_MAX)
        s->report.checkpoint_sites |= 1ull << m->site;
    core_on_published(s->core, loop_now_ms(s->loop), m, s->out);
}

static void on_failed(struct shell *s, const struct member *me, const struct msg_failed *m)
{
    if (!is_current(s, me->who)) {
        log_info(&s->log, "a failure that a replaced process reports: %s", m->text);
        return;
    }
    fail_job(s, me->who, m->code, err_exit_code(m->code), m->text);
}

static const char *from_agent(struct shell *s, const struct member *me, enum msg_type type, void *m)
{
    if (me->who.role != ROLE_AGENT)
        return "sends what only agents may";
    if ((type == MSG_PUBLISHED ? ((struct msg_published *)m)->site : ((struct msg_exited *)m)->who.site) != me->who.site)
        return "speaks for another site";
    if (type == MSG_PUBLISHED)
        on_published(s, me->who, m);
    else
        on_exited(s, m);
    return NULL;
}

static const char *from_shard(struct shell *s, const struct member *me, const struct msg_prepared *m, const uint8_t *payload, size_t size)
{
    size_t norms = m->norm_count * sizeof(double);
    if ((m->bin_count && m->bin_count != MAGNITUDE_BINS) || size != norms + m->bin_count * sizeof(uint32_t))
        return "reports another number of norms or bins than it says";
    core_on_prepared(s->core, loop_now_ms(s->loop), me->who, m, (const double *)(const void *)payload, (const uint32_t *)(const void *)(payload + norms), s->out);
    return NULL;
}

static const char *from_member(struct shell *s, const struct member *me, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    uint64_t now = loop_now_ms(s->loop);
    switch (type) {
    case MSG_HEARTBEAT:
        if (!shell_same(((struct msg_heartbeat *)m)->who, me->who))
            return "sends another's heartbeat";
        core_on_heartbeat(s->core, now, m, s->out);
        return NULL;
    case MSG_LEAVE:
        if (!shell_same(((struct msg_leave *)m)->who, me->who))
            return "takes leave for another";
        core_on_leave(s->core, now, m, s->out);
        return NULL;
    case MSG_PREPARED:
        return from_shard(s, me, m, payload, size);
    case MSG_PART:
        if (((struct msg_part *)m)->site != me->who.site)
            return "tells of parts of another site";
        core_on_part(s->core, now, m, s->out);
        return NULL;
    case MSG_TIMES:
        if (me->who.role != ROLE_WORKER && me->who.role != ROLE_PS)
            return "tells the times of steps it has no part in";
        shell_metrics_times(s, m);
        return NULL;
    case MSG_READY:
        if (!shell_same(((struct msg_ready *)m)->who, me->who))
            return "is ready for another";
        core_on_ready(s->core, now, m, s->out);
        return NULL;
    case MSG_FAILED: on_failed(s, me, m); return NULL;
    case MSG_EXITED:
    case MSG_PUBLISHED: return from_agent(s, me, type, m);
    default: return "sends a message that is not for a coordinator";
    }
}

/* The newest value of each process; the sum is over all that ever were. */
static void keep_wan(struct shell *s, struct process_id who, uint64_t bytes)
{
    for (unsigned i = 0; i < s->wan_count; i++)
        if (shell_same(s->wan[i].who, who)) {
            s->wan[i].bytes = MAX(s->wan[i].bytes, bytes);
            return;
        }
    if (s->wan_count == s->wan_room) {
        s->wan_room = s->wan_room ? s->wan_room * 2 : 64;
        s->wan = realloc(s->wan, s->wan_room * sizeof *s->wan);
        CHECK(s->wan != NULL);
    }
    s->wan[s->wan_count++] = (struct wan){who, bytes, bytes};
}

/* ---- the links ---- */
static void answer_status(struct shell *s, struct link *link)
{
    char text[8192];
    struct err err = ERR_INIT;
    struct msg_statusreply reply = {.phase = (uint8_t)core_phase(s->core)};
    struct bytes payload = {text, shell_status(s, text, sizeof text)};
    if (link_queued(link) > ANSWERS_MAX)
        refuse(s, link, "asks and does not read the answers");
    else if (link_send(link, MSG_STATUSREPLY, 0, &reply, &payload, 1, &err) < 0)
        log_warn(&s->log, "%s", err.text);
}

/* ---- visiting sites ---- */
static void enrol(struct shell *s, struct link *link, const struct msg_enrol *m)
{
    struct err err = ERR_INIT;
    const struct process_id *who = &link_peer(link)->who;
    const char *site = s->job.spec.sites[who->site].name;
    struct msg_enrolled reply = {0};
    void *image = NULL;
    size_t size = 0;
    int rc = strcmp(m->site, site) == 0 ? enrol_pack(s->run.path, site, &image, &size, &err) : err_set(&err, ERR_DENIED, "the token is of another site");
    if (rc == 0)
        rc = enrol_spend(s->run.path, site, m->secret, &err);   /* last: what it could not buy leaves it good */
    snprintf(reply.name, sizeof reply.name, "%s", s->job.spec.name);
    struct bytes payload = {image, size};
    struct msg_failed refused = {.who = {.role = ROLE_COORDINATOR}, .code = err.code};
    snprintf(refused.text, sizeof refused.text, "%.*s", (int)sizeof refused.text - 1, err.text);
    struct err lost = ERR_INIT;
    int sent = rc == 0 ? link_send(link, MSG_ENROLLED, 0, &reply, &payload, 1, &lost) : link_send(link, MSG_FAILED, 0, &refused, NULL, 0, &lost);
    free(image);
    if (sent < 0)
        log_warn(&s->log, "%s", lost.text);
    if (rc == 0) {
        shell_event(s, "enrolled", site, core_round(s->core), "a machine used the token of this site");
        core_on_enrolled(s->core, loop_now_ms(s->loop), who->site, s->out);
        shell_run(s);
    } else {
        log_warn(&s->log, "%s", err.text);
    }
}

static void drain(struct shell *s, const struct member *me, const struct msg_drain *m)
{
    if (me->who.role != ROLE_CLI && (me->who.role != ROLE_AGENT || me->who.site != m->site)) {
        refuse(s, me->link, "may not drain that site");
        return;
    }
    core_on_drain(s->core, loop_now_ms(s->loop), m->site, s->out);
    shell_run(s);
}

/* Slurm takes the nodes of a site that stays: its agent asks in the run's name. A visitor only leaves. */
static void stop(struct shell *s, const struct member *me)
{
    if (me->who.role == ROLE_CLI || (me->who.role == ROLE_AGENT && me->joined && !visits(s, me->who.site)))
        shell_stop_asked(s);
    else
        refuse(s, me->link, "may not stop the run");
}

static unsigned askers(const struct shell *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        n += s->member[i].link && s->member[i].who.role == ROLE_JOIN;
    return n;
}

/* A process joins as soon as its link opens, and a token asks one question: when there is no place, who has had one longest without joining goes. */
static struct member *make_place(struct shell *s, bool asks)
{
    struct member *idle = NULL;
    bool only_askers = asks && askers(s) >= ASKERS_MAX;
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &s->member[i];
        if (!m->link && !only_askers)
            return m;
        bool may_go = m->link && !m->joined && (!only_askers || m->who.role == ROLE_JOIN);
        if (may_go && (!idle || m->number < idle->number))
            idle = m;
    }
    if (!idle)
        return NULL;
    struct link *link = idle->link;
    *idle = (struct member){0};
    refuse(s, link, "has not joined, and others wait");
    return idle;
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct shell *s = arg;
    if (link_is_tls(link) && (peer->who.site >= s->job.spec.site_count || strcmp(link_peer_site(link), s->job.spec.sites[peer->who.site].name) != 0)) {
        log_warn_few(&s->log, &s->refused, "a process with a certificate of site '%s' says it is of another: its link is closed", link_peer_site(link));
        link_close(link);
        return;
    }
    struct member *place = make_place(s, peer->who.role == ROLE_JOIN);
    if (!place) {
        refuse(s, link, "is one more than there are places for");
        return;
    }
    *place = (struct member){.link = link, .who = peer->who, .number = s->links++};
    if (peer->who.role == ROLE_JOIN)
        link_limit_payload(link, 0);      /* the question is all that it may send */
}

static void on_work(struct shell *s, struct member *me, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    s->out->count = 0;
    s->exited = (struct process_id){0};
    if (type == MSG_JOIN) {
        struct process_id who = me->who;
        if (on_join(s, me, m, payload, size)) {
            shell_run(s);
            tell_gang(s, who);
        }
        return;
    }
    if (me->left)                         /* what was on its way when it left */
        return;
    const char *wrong = me->joined ? from_member(s, me, type, m, payload, size) : "has not joined and sends work";
    if (wrong) {
        refuse(s, me->link, wrong);
        return;
    }
    if (type == MSG_LEAVE) {
        me->joined = false;               /* the end of its link is no loss */
        me->left = true;
    }
    if (type == MSG_HEARTBEAT)
        keep_wan(s, me->who, ((struct msg_heartbeat *)m)->wan_sent_bytes);
    shell_run(s);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct shell *s = arg;
    struct member *me = member_of(s, link);
    if (!me)
        return;
    if (me->who.role == ROLE_JOIN && type != MSG_ENROL)
        refuse(s, link, "has a token, which is good for enrolling only");
    else if (type == MSG_STATUS)
        answer_status(s, link);
    else if (type == MSG_STOP)
        stop(s, me);
    else if (type == MSG_ENROL && me->who.role == ROLE_JOIN && !s->ending)
        enrol(s, link, m);
    else if (type == MSG_BRINGS && me->who.role == ROLE_AGENT)
        me->brings = ((const struct msg_brings *)m)->ranks;
    else if (type == MSG_DRAIN && !s->ending)
        drain(s, me, m);
    else if (!s->ending)
        on_work(s, me, type, m, payload, size);
}

static void agent_lost(struct shell *s, struct process_id who)
{
    char name[120];
    enum core_phase phase = core_phase(s->core);
    if (phase == CORE_DONE || phase == CORE_FAILED)
        return;
    shell_who(s, who, name);
    s->was_lost[who.site] |= 1ull << who.index;
    shell_event(s, "lost", name, core_round(s->core), "its link broke");
    restarts_died(s->restarts, name, core_round(s->core), "its link broke: killed, crashed or cut off", loop_now_ms(s->loop));
    s->report_due = true;
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct shell *s = arg;
    struct member *me = member_of(s, link);
    if (why->code == ERR_CORRUPT || why->code == ERR_DENIED)
        log_warn_few(&s->log, &s->strangers, "%s", why->text);
    if (!me)
        return;
    struct member was = *me;
    *me = (struct member){0};
    if (!was.joined || s->ending)
        return;
    if (was.who.role == ROLE_AGENT)
        agent_lost(s, was.who);
    s->exited = (struct process_id){0};
    core_on_gone(s->core, loop_now_ms(s->loop), was.who, s->out);
    shell_run(s);
}

const struct link_ops shell_link_ops = {on_opened, on_message, on_closed};
