/* Sites that come and go (`viaduct join`): with how many ranks, when they get lanes, copies and their leave. Part of the core; see core_view.c. */
#include "coordinator/core_private.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"

/* How many ranks a visiting site has is as who comes says. More than there are lanes for are no gang of this job: they get none, and its agent is told to go. */
void site_brings(struct core *c, struct core_out *out, unsigned site, uint16_t ranks)
{
    uint32_t all = 0;
    if (!visiting(c, site))
        return;
    ranks = ranks ? ranks : c->config.gang[site].ranks;
    if (ranks == c->next.gang[site].ranks)
        return;
    site_left(c, out, site, "comes with another number of ranks");
    for (unsigned i = 0; i < c->next.site_count; i++)
        all += i == site ? ranks : c->next.gang[i].ranks;
    c->next.gang[site].ranks = all > c->plan.lanes ? 0 : ranks;
    if (all > c->plan.lanes) {
        struct core_action *stop = core_act(out, CORE_SEND_STOP);
        stop->to = (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)site};
        stop->u.stop.why = STOP_FAILED;
    }
    c->dirty = true;
}

/* Whoever launches now was never told to before: another machine may have been this site. */
void site_arrived(struct core *c, struct core_out *out, unsigned site)
{
    struct view_gang *gang = &c->next.gang[site];
    if (!visiting(c, site) || gang->wanted || gang->ranks == 0 || !gang_needed(c))
        return;
    gang->wanted = true;
    gang->incarnation++;
    c->dirty = true;
    c->gang[site] = (struct gang_state){.parked = true, .since_ms = c->now_ms, .patience_ms = c->config.relaunch_ms};
    for (unsigned s = 0; s < c->next.slot_count; s++)
        if (c->next.slot[s].site == site)
            slot_vacate(c, s, 0);         /* its agent may have launched one that joined after the site had left: that one's copies are not the new one's */
    core_event(c, out, "site joined", (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)site}, "its ranks get lanes when they reach the shards");
}

static void copy_to(struct core *c, unsigned site)
{
    for (unsigned s = 0; s < c->next.shard_count; s++)
        for (unsigned i = 0; i < c->next.shard[s].copy_count; i++) {
            unsigned slot = c->next.shard[s].copy[i].slot;
            if (c->next.shard[s].copy[i].role != COPY_NONE || c->next.slot[slot].site != site || !c->slot[slot].joined)
                continue;
            c->next.shard[s].copy[i].role = COPY_COPYING;
            c->dirty = true;
        }
}

static bool has_lanes_of(const struct record *record, struct lane_range own)
{
    for (uint16_t n = 0; n < record->cover_count; n++)
        if (record->cover[n].lanes.lo >= own.lo && record->cover[n].lanes.hi <= own.hi)
            return true;
    return false;
}

/* A visitor contributes before anything but the weights crosses its link. Then its copies are filled, if a round with it is so short that the link can do
 * that in seconds: rounds stand still meanwhile. Over a longer link they would for several steps, and a copy there takes as many bytes a round as it saves. */
void visitors_work(struct core *c, struct core_out *out, const struct record *record)
{
    bool quick = c->committed_ms && c->now_ms - c->committed_ms <= COPY_ROUND_MS;
    c->committed_ms = c->now_ms;
    for (unsigned i = 0; i < c->view.site_count; i++) {
        if (visiting(c, i) && c->next.gang[i].wanted)
            gang_unpark(c, i);
        if (!visiting(c, i) || c->gang[i].parked || !has_lanes_of(record, c->view.gang[i].lanes))
            continue;
        if (!c->gang[i].works)
            core_event(c, out, "site works", (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)i}, "the first step with lanes of this site");
        c->gang[i].works = true;
        if (quick)
            copy_to(c, i);
    }
}

void site_left(struct core *c, struct core_out *out, unsigned site, const char *why)
{
    if (!visiting(c, site) || !c->next.gang[site].wanted)
        return;
    core_event(c, out, "site left", (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)site}, "%s", why);
    for (unsigned s = 0; s < c->next.slot_count; s++)
        if (c->next.slot[s].site == site)
            slot_vacate(c, s, 0);
    c->next.gang[site].wanted = false;
    c->gang[site] = (struct gang_state){0};
    c->dirty = true;
}

/* Its processes are told to end; its agent, to come back or not as its person likes. */
void send_away(struct core *c, struct core_out *out, unsigned site, enum stop_why how, const char *why)
{
    struct core_action *stop = core_act(out, CORE_SEND_STOP);
    stop->to = (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)site};
    stop->u.stop.why = (uint8_t)how;
    c->agent[site].sent_away = true;
    site_left(c, out, site, why);
}
