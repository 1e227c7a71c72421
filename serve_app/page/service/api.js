// Talking to the service: the key, the requests, and errors in plain words.

const KEY_NAME = 'motet-key';
const ADMIN_KEY_NAME = 'motet-admin-key';
let key = readStored(KEY_NAME);
let adminKey = readStored(ADMIN_KEY_NAME);
let onKeyWanted = () => {};

/** What went wrong, as the service itself put it. */
export class ServiceError extends Error {
  constructor(message, { status = 0, param = null, code = null, admin = false } = {}) {
    super(message);
    this.name = 'ServiceError';
    this.status = status;
    this.param = param;
    this.code = code;
    this.admin = admin; // whether an admin key was wanted
  }
}

function readStored(name) {
  try {
    return sessionStorage.getItem(name) ?? '';
  } catch {
    return '';
  }
}

function store(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // Storage is off: the key lives as long as the page.
  }
}

export function hasKey() {
  return key !== '';
}

export function useKey(value) {
  key = value.trim();
  store(KEY_NAME, key);
}

export function hasAdminKey() {
  return adminKey !== '';
}

/** The key that administers; an empty one forgets it. The service refuses it for everything else. */
export function useAdminKey(value) {
  adminKey = value.trim();
  store(ADMIN_KEY_NAME, adminKey);
}

/** Name the function to call when the service answers 401 to something that needs no admin key. */
export function whenKeyWanted(callback) {
  onKeyWanted = callback;
}

/**
 * Send a request; return an ok Response, or throw a ServiceError (an AbortError if it was cancelled).
 * @param {string} path
 * @param {{json?: object, form?: FormData, method?: string, signal?: AbortSignal, admin?: boolean}} [options] `admin` for what
 * needs an admin key
 */
export async function ask(path, { json, form, method, signal, admin = false } = {}) {
  const headers = new Headers();
  const used = (admin && adminKey) || key;
  if (used) headers.set('Authorization', `Bearer ${used}`);
  if (json) headers.set('Content-Type', 'application/json');
  const body = json ? JSON.stringify(json) : form;
  const response = await reach(path, { method: method ?? (body ? 'POST' : 'GET'), headers, body, signal });
  if (response.ok) return response;
  throw await refusal(response, admin);
}

/** Open a WebSocket. A browser cannot set its headers, so the key is offered as a subprotocol. */
export function openSocket(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  return new WebSocket(url, key ? ['realtime', `openai-insecure-api-key.${key}`] : ['realtime']);
}

export async function askJson(path, options) {
  const response = await ask(path, options);
  return response.json();
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (wasCancelled(error)) throw error;
    throw new ServiceError('The service did not answer. Is it still running?');
  }
}

async function refusal(response, admin) {
  const stated = errorIn(await response.text().catch(() => ''));
  const known = { status: response.status, param: stated?.param, code: stated?.code, admin };
  let message = stated?.message || `The service answered ${response.status} ${response.statusText}`.trim() + '.';
  if (response.status === 429) message += retryAdvice(response.headers.get('retry-after'));
  if (response.status === 401 && !admin) onKeyWanted(message);
  return new ServiceError(message, known);
}

function errorIn(body) {
  try {
    const { error } = JSON.parse(body);
    return typeof error === 'string' ? { message: error } : error;
  } catch {
    return null;
  }
}

function retryAdvice(header) {
  const seconds = Math.ceil(Number(header));
  return header && seconds > 0 ? ` Try again in ${seconds} s.` : '';
}

export function wasCancelled(error) {
  return error?.name === 'AbortError';
}

/** Words for any failure, also for one in the middle of an answer. */
export function inWords(error) {
  if (error instanceof ServiceError) return error.message;
  if (error instanceof TypeError) return 'The connection broke before the answer was complete.';
  return error?.message || 'Something went wrong.';
}
