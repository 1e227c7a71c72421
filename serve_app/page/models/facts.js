// What is known of every model: of the catalogue, of the service that runs, and of the operator's list.

import { askJson, hasAdminKey } from '../service/api.js';

/**
 * What happens with a model at the moment.
 * @typedef {'available' | 'fetching' | 'trying' | 'stopped' | 'installed' | 'loading' | 'served' | 'load-failed' | 'unloading'} Phase
 */

/**
 * A model as the view shows it. `entry` is that of the catalogue, null for a model that is not in it.
 * @typedef {object} ModelFacts
 * @property {string} id
 * @property {string} task
 * @property {Phase} phase
 * @property {object | null} entry
 * @property {boolean} clones
 * @property {boolean} listed whether the service lists it among its models
 * @property {boolean} unloadable whether it was loaded while the service runs
 * @property {number} since when it got its state, in Unix seconds; 0 if that is not known
 * @property {string} cause why it failed, or an empty string
 * @property {{hardware: string, state: string, cause: string}[]} placements
 */

const PHASES = { loading: 'loading', ready: 'served', failed: 'load-failed', unloading: 'unloading' };

/** All models, those of the catalogue first. Causes of failures, and the operator's list, are for admin keys only. */
export async function readModels() {
  const admin = hasAdminKey();
  const [registry, listed, status] = await Promise.all([
    askJson('/v1/registry', { admin }),
    askJson('/v1/models'),
    askJson('/v1/status'),
  ]);
  const failed = listed.data.some(({ motet }) => motet?.state === 'failed');
  const loaded = await readLoaded(admin, failed);
  return merged(registry.data, listed.data, status.placements, loaded.data);
}

/** The operator's list. Without a key, this machine may ask too: others are refused, so they ask only if a failure needs a cause. */
async function readLoaded(admin, failed) {
  if (admin) return askJson('/v1/admin/models', { admin });
  const nothing = { data: [] };
  return failed ? askJson('/v1/admin/models', { admin: true }).catch(() => nothing) : nothing;
}

/** @returns {ModelFacts[]} */
export function merged(registry, listed, placements, loaded) {
  const served = new Map(listed.filter(({ motet }) => motet && !motet.alias_of && motet.task !== 'conversation').map((each) => [each.id, each]));
  const operated = new Map(loaded.map((each) => [each.id, each]));
  const entries = new Map(registry.map((each) => [each.id, each]));
  const ids = [...new Set([...entries.keys(), ...served.keys()])];
  return ids.map((id) => {
    const entry = entries.get(id) ?? null;
    const motet = served.get(id)?.motet;
    const operator = operated.get(id);
    return {
      id,
      entry,
      task: entry?.task ?? motet.task,
      phase: phaseOf(entry, motet),
      clones: Boolean(entry?.clones || motet?.clones),
      listed: Boolean(motet),
      unloadable: Boolean(motet?.state),
      since: operator?.created ?? 0,
      cause: causeOf(entry, motet, operator),
      placements: placementsOf(id, motet, placements),
    };
  });
}

/** @returns {Phase} */
export function phaseOf(entry, motet) {
  const state = motet && (motet.state ?? 'ready');
  if (entry?.addition && state !== 'ready') return entry.addition.state === 'failed' ? 'stopped' : entry.addition.state;
  if (state) return PHASES[state];
  return entry?.installed ? 'installed' : 'available';
}

function causeOf(entry, motet, operator) {
  const phase = phaseOf(entry, motet);
  if (phase === 'stopped') return entry.addition.cause ?? 'It ended early. An admin key shows why.';
  if (phase === 'load-failed') return operator?.cause ?? 'It did not load. An admin key shows why.';
  return '';
}

function placementsOf(id, motet, placements) {
  const known = placements.filter(({ model }) => model === id);
  if (known.length) return known.map(({ hardware, state, cause }) => ({ hardware, state, cause: cause ?? '' }));
  return (motet?.placements ?? []).map((hardware) => ({ hardware, state: '', cause: '' }));
}
