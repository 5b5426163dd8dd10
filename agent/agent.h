/* agent: one per host and site. Launches the gang and the shards that the view wants here, watches them, reports every death at once,
 * adopts what a dead agent left alive, publishes this site's copy of each decided checkpoint, runs the export process.
 * `viaduct agent --run DIR --site NAME [--node I] [--external-gang]`: host I of the site; 0 has its shards, checkpoints, export and front door besides its ranks.
 * With --external-gang (under mpirun) the ranks are started by others. */
#ifndef VIADUCT_AGENT_AGENT_H
#define VIADUCT_AGENT_AGENT_H

int agent_main(int argc, char **argv);

#endif
